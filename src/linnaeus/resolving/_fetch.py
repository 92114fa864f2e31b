"""Bring one file from the bucket into the cache: once, whole, verified.

Invariant: a name appears in the cache only as a complete, verified, fsynced file. Every download goes to
its own private directory and is published by a link that never replaces anything, so any number of
processes may fetch the same name at once; the lock only spares them the bytes. Whoever dies leaves a
private directory that the next fetch sweeps, and the lock falls to a waiter, who takes over.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.errors import CheckpointNotFoundError, RemoteError, RemoteNotFoundError
from linnaeus.files import file_digest, require_space, temporary_name
from linnaeus.remote import kept_bytes, open_remote
from linnaeus.resolving._admission import admit
from linnaeus.resolving._fetch_sharded import fetch_sharded
from linnaeus.resolving._places import describe_cache, nearest
from linnaeus.resolving._records import note
from linnaeus.resolving._single_flight import key_of, once
from linnaeus.resolving._unfinished import LARGE_BYTES, own_directory, release

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig
    from linnaeus.remote import Progress, Remote

_log = logging.getLogger(__name__)


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
    bring = fetch_sharded if name.endswith(pth.SHARDED) else fetch_from
    return bring(open_remote(bucket), name, cache_dir / name, progress=progress, expected=expected)


def fetch_from(
    remote: Remote, name: str, final: Path, *, progress: Progress | None, expected: str | None
) -> Path:
    """Fetch `name` from a remote to the cached file `final`; as `fetch`."""
    return once(final, lambda work: _Fetch(name, final, work, remote, expected, progress).run())


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One file on its way from a remote to its place in the cache."""

    name: str
    final: Path
    work: Path
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
        private = own_directory(self.work, key_of(self.final))
        try:
            require_space(self.final, size_bytes - kept_bytes(private))
            algorithms = ["sha256"] if self.expected else []
            arrived = self.remote.download(self.name, private, algorithms=algorithms, progress=self.progress)
            self._publish(arrived.path, arrived.digests.get("sha256"))
        except (RemoteError, KeyboardInterrupt, UnwantedError):
            release(private, self.work, key_of(self.final))
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
