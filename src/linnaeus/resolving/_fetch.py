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
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    InsufficientSpaceError,
    LinnaeusError,
    RemoteNotFoundError,
    SaveError,
    error_named,
)
from linnaeus.files import (
    Lock,
    is_out_of_space,
    make_directory,
    publish_new,
    remove_file,
    require_space,
    sweep_abandoned,
    temporary_name,
    write_text,
)
from linnaeus.remote import open_remote
from linnaeus.resolving._places import describe_cache, nearest

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig
    from linnaeus.remote import Progress, Remote

_log = logging.getLogger(__name__)

_UPLOAD_ADVICE = "Upload a good copy: linnaeus upload --force FILE"
# Where fetching works, hidden inside the cache, so that publishing stays within one filesystem.
WORK_DIRECTORY = ".linnaeus"


def fetch(name: str, cache_dir: Path, bucket: BucketConfig, *, progress: Progress | None) -> Path:
    """Fetch `name` from the bucket into the cache, unless another process does so meanwhile.

    Raises:
        LinnaeusError: As for `resolve`; who waits for another process's fetch gets that one's error.
    """
    remote = open_remote(bucket)
    work = _prepare(cache_dir)
    final = cache_dir / name
    key = hashlib.sha256(name.encode()).hexdigest()[:16]  # names may be as long as file names can be
    failure = work / f"{key}.failure"
    with _writing(cache_dir):
        known = _told(failure)
        waited: list[bool] = []
        with Lock(work / f"{key}.lock", on_wait=lambda: waited.append(True)):
            if final.exists():
                return final
            told = _told(failure)
            if waited and told and told != known:
                raise _as_error(told)
            try:
                _fetch_into(final, work, remote, progress)
            except LinnaeusError as error:
                _tell(failure, error)
                raise
            remove_file(failure)
    return final


def _prepare(cache_dir: Path) -> Path:
    work = cache_dir / WORK_DIRECTORY
    with _writing(cache_dir):
        _make_work_directory(work)
        for entry in sweep_abandoned(work):
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
def _writing(cache_dir: Path) -> Iterator[None]:
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


def _fetch_into(final: Path, work: Path, remote: Remote, progress: Progress | None) -> None:
    started = time.monotonic()
    known = remote.stat(final.name)
    if known is None:
        raise _not_found(final, remote)
    require_space(final, known.size_bytes)
    private = temporary_name(work / final.name)
    private.mkdir()
    try:
        arrived = private / final.name
        remote.fetch(final.name, arrived, progress=progress)
        _verify(arrived, remote.place)
        publish_new(arrived, final)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    seconds = time.monotonic() - started
    _log.info("fetched %s from %s: %d bytes in %.1f s", final.name, remote.place, known.size_bytes, seconds)


def _verify(arrived: Path, place: str) -> None:
    """Check what arrived, since a bucket without digests passes a damaged body.

    And anybody may upload anything.
    """
    try:
        pth.require_valid(arrived)
    except CheckpointInvalidError as error:
        values = error.fields() | {
            "path": f"{arrived.name} as it arrived from {place}",
            "advice": f"It was not put into the cache. {error.advice or _UPLOAD_ADVICE}",
        }
        raise type(error)(**values) from error


def _not_found(final: Path, remote: Remote) -> CheckpointNotFoundError:
    try:
        there, finding = [file.name for file in remote.files()], f"not in {remote.place}"
    except RemoteNotFoundError:
        there, finding = [], f"{remote.place} does not exist"
    return CheckpointNotFoundError(
        identifier=final.name,
        places=[describe_cache(str(final.parent)), finding],
        nearest=nearest(final.name, there + [entry.name for entry in final.parent.iterdir()]),
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
