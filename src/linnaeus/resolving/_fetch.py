"""Bring one file from the bucket into the cache: once, whole, verified.

Invariant: a name appears in the cache only as a complete, verified, fsynced file. Every download goes to
its own private directory and is published by a link that never replaces anything, so any number of
processes may fetch the same name at once; the lock only spares them the bytes. Whoever dies leaves a
private directory that the next fetch sweeps, and the lock falls to a waiter, who takes over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    InsufficientSpaceError,
    LinnaeusError,
    RemoteError,
    RemoteNotFoundError,
    SaveError,
    error_named,
)
from linnaeus.files import (
    Lock,
    file_digest,
    is_out_of_space,
    make_directory,
    publish_new,
    remove_file,
    require_space,
    temporary_name,
    write_text,
)
from linnaeus.remote import kept_bytes, open_remote
from linnaeus.resolving._fetch_sharded import fetch_sharded
from linnaeus.resolving._pins import mismatch
from linnaeus.resolving._places import describe_cache, nearest
from linnaeus.resolving._records import WORK_DIRECTORY, note
from linnaeus.resolving._unfinished import own_directory, release, sweep

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig
    from linnaeus.remote import Progress, Remote

_log = logging.getLogger(__name__)

_UPLOAD_ADVICE = "Upload a good copy: linnaeus upload --force FILE"
# From here on several streams pay, and so does going on where a cut left it.
LARGE_BYTES = 16 << 20


class UnwantedError(Exception):
    """What `progress` raises when a fetch is no longer wanted: it ends, and its bytes are kept."""


def fetch(
    name: str,
    cache_dir: Path,
    bucket: BucketConfig,
    *,
    progress: Progress | None,
    expected: str | None = None,
) -> Path:
    """Fetch `name` from the bucket into the cache, unless another process does so meanwhile.

    Args:
        name: The file's name there and here.
        cache_dir: The cache.
        bucket: Where it comes from.
        progress: Called now and then.
        expected: The SHA-256 that it must have; other content is not put into the cache.

    Raises:
        LinnaeusError: As for `resolve`; who waits for another process's fetch gets that one's error.
    """
    if name.endswith(pth.SHARDED):
        return fetch_sharded(open_remote(bucket), name, cache_dir / name, progress=progress)
    return fetch_from(open_remote(bucket), name, cache_dir / name, progress=progress, expected=expected)


def fetch_from(
    remote: Remote, name: str, final: Path, *, progress: Progress | None, expected: str | None
) -> Path:
    """Fetch `name` from a remote to the cached file `final`; as `fetch`."""
    cache_dir = final.parent
    work = prepare_cache(cache_dir)
    key = hashlib.sha256(final.name.encode()).hexdigest()[:16]  # names may be as long as file names can be
    failure = work / f"{key}.failure"
    with writing_cache(cache_dir):
        known = _told(failure)
        waited: list[bool] = []
        with Lock(work / f"{key}.lock", on_wait=lambda: waited.append(True)):
            if final.exists():
                return final
            told = _told(failure)
            if waited and told and told != known:
                raise _as_error(told)
            try:
                _Fetch(name, final, work, key, remote, expected, progress).run()
            except LinnaeusError as error:
                _tell(failure, error)
                raise
            remove_file(failure)
    return final


def prepare_cache(cache_dir: Path) -> Path:
    """Make the cache's working directory, sweep what the dead have left in it, and return it."""
    work = cache_dir / WORK_DIRECTORY
    with writing_cache(cache_dir):
        _make_work_directory(work)
        for entry in sweep(work):
            _log.info("swept %s, left by a process that ended", entry)
    return work


def _make_work_directory(work: Path) -> None:
    if work.is_dir():
        return
    make_directory(work)
    with contextlib.suppress(PermissionError):  # another user was faster
        # Who may put files into the cache must be able to work in here, whatever the umask.
        work.chmod(stat.S_IMODE(work.parent.stat().st_mode))


@contextlib.contextmanager
def writing_cache(cache_dir: Path) -> Iterator[None]:
    """Make errors of ours of what the system says to writing into the cache."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LinnaeusError):
            raise
        path = str(error.filename or cache_dir)
        if is_out_of_space(error):
            raise InsufficientSpaceError(path=path, problem="the disk is full") from error
        raise SaveError(
            path=path,
            problem=f"the cache can't be written ({error.strerror})",
            advice="Choose another with ENV.INPUT.CACHE_DIR or LINNAEUS_CACHE_DIR."
            " What it holds can still be used.",
        ) from error


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One file on its way from a remote to its place in the cache."""

    name: str
    final: Path
    work: Path
    key: str
    remote: Remote
    expected: str | None
    progress: Progress | None

    def run(self) -> None:
        """Bring it, check it, publish it; one line in the log."""
        started = time.monotonic()
        known = self.remote.stat(self.name)
        if known is None:
            raise _not_found(self.name, self.final, self.remote)
        had = (self._small if known.size_bytes < LARGE_BYTES else self._large)(known.size_bytes)
        _log.info(
            "fetched %s from %s: %d bytes in %.1f s, %d of them in an earlier try",
            self.name,
            self.remote.place,
            known.size_bytes,
            time.monotonic() - started,
            had,
        )

    def _small(self, size_bytes: int) -> int:
        require_space(self.final, size_bytes)
        private = temporary_name(self.work / self.final.name)
        private.mkdir()
        try:
            arrived = private / self.final.name
            self.remote.fetch(self.name, arrived, progress=self.progress)
            self._publish(arrived, file_digest(arrived, "sha256") if self.expected else None)
        finally:
            shutil.rmtree(private, ignore_errors=True)
        return 0

    def _large(self, size_bytes: int) -> int:
        """Fetch over several streams, going on where an earlier try was cut; return what that had brought."""
        private = own_directory(self.work, self.key)
        try:
            require_space(self.final, size_bytes - kept_bytes(private))
            algorithms = ["sha256"] if self.expected else []
            arrived = self.remote.download(self.name, private, algorithms=algorithms, progress=self.progress)
            self._publish(arrived.path, arrived.digests.get("sha256"))
        except (RemoteError, KeyboardInterrupt, UnwantedError):
            release(private, self.work, self.key)
            raise
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        shutil.rmtree(private, ignore_errors=True)
        return arrived.resumed_bytes

    def _publish(self, arrived: Path, sha256: str | None) -> None:
        what = f"{self.name} as it arrived from {self.remote.place}"
        admit(arrived, self.final, what, sha256=sha256, expected=self.expected)
        if sha256 is not None:
            note(self.final, sha256, self.remote.place)


def admit(arrived: Path, final: Path, what: str, *, sha256: str | None, expected: str | None) -> None:
    """Check what arrived, and publish it.

    A bucket without digests passes a damaged body, and anybody may upload anything.

    Args:
        arrived: The file.
        final: Where it goes, unless a file stands there meanwhile.
        what: What to call it in messages.
        sha256: Of the file, where it is known.
        expected: The SHA-256 that it must have.

    Raises:
        PinMismatchError: It has another one.
        CheckpointInvalidError: It is no whole, safe checkpoint.
    """
    if expected is not None and sha256 != expected:
        raise mismatch(what, expected, str(sha256))
    try:
        pth.require_valid(arrived)
    except CheckpointInvalidError as error:
        advice = f"It was not put into the cache. {error.advice or _UPLOAD_ADVICE}"
        raise type(error)(**(error.fields() | {"path": what, "advice": advice})) from error
    publish_new(arrived, final)


def _not_found(name: str, final: Path, remote: Remote) -> CheckpointNotFoundError:
    try:
        there, finding = [file.name for file in remote.files()], f"not in {remote.place}"
    except RemoteNotFoundError:
        there, finding = [], f"{remote.place} does not exist"
    return CheckpointNotFoundError(
        identifier=name,
        places=[describe_cache(str(final.parent)), finding],
        nearest=nearest(name, there + [entry.name for entry in final.parent.iterdir()]),
        advice="List what there is: linnaeus ls --remote",
    )


def _tell(failure: Path, error: LinnaeusError) -> None:
    """Leave word for those who wait: they would only fail the same way, one after another."""
    told = {"attempt": os.urandom(8).hex(), "error": type(error).__name__, "fields": error.fields()}
    with contextlib.suppress(OSError):  # a full disk; then they try for themselves
        write_text(failure, json.dumps(told, default=str))


def _told(failure: Path) -> str | None:
    try:
        return failure.read_text(encoding="utf-8")
    except OSError:
        return None


def _as_error(told: str) -> LinnaeusError:
    document = json.loads(told)
    error = error_named(document["error"], document["fields"])
    if error is None:
        return SaveError(path="the cache", problem=f"another process failed to fetch it: {document['error']}")
    return error
