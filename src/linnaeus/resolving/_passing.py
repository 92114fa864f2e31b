"""One file of one rank handed to other ranks, each of which checks it and publishes it as a download is.

What arrived before a cut is kept with a journal, as a download's is, and gone on with the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.files import file_digest, require_space
from linnaeus.remote import Journal, RemoteFile, kept_bytes
from linnaeus.resolving._fetch import admit, prepare_cache, writing_cache
from linnaeus.resolving._records import note
from linnaeus.resolving._sharing import Job
from linnaeus.resolving._unfinished import own_directory, release


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a rank tells the others of a file that it has, JSON values, for `pass_on`."""
    status = path.stat()
    return {"name": path.name, "size_bytes": status.st_size, "modified": str(status.st_mtime_ns)}


def pass_on(
    job: Job,
    what: str,
    members: Sequence[int],
    told: dict[str, Any],
    path: Path,
    *,
    expected: str | None = None,
    is_cache: bool = True,
) -> None:
    """Hand a file of one rank to some others; call it on every rank.

    Args:
        job: All ranks.
        what: What it is for, for messages.
        members: The ranks that take part; the first has the file.
        told: What that one told of it, by `facts_of`.
        path: Where it is, or goes, on this rank.
        expected: The SHA-256 that it must have.
        is_cache: Whether it goes into a cache, which keeps a record of what it holds.

    Raises:
        LinnaeusError: What was raised on any rank, on every rank.
        PeerFailedError: A rank is gone.
    """
    known = RemoteFile(told["name"], told["size_bytes"], modified=told["modified"])
    with contextlib.ExitStack() as stack:
        ends: list[_End] = []

        def prepare() -> int:
            if job.rank == members[0]:
                ends.append(_Source(path))
            elif job.rank in members:
                ends.append(stack.enter_context(_arriving(known, path, f"{what}, from rank {members[0]}")))
            return ends[0].first_missing if ends else known.size_bytes

        start = job.agree(what, prepare, merge=min, alike=True)
        end = ends[0] if ends else _End(path)  # of who takes no part, nothing is asked

        def publish(sha256: str) -> None:
            end.publish(start, sha256, expected)
            if is_cache:
                note(path, sha256, f"rank {members[0]}")

        job.pass_on(what, members, (start, known.size_bytes), end.each, lambda: end.sha256(start), publish)


class _End:
    """Where bytes come from, or go to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()

    @property
    def first_missing(self) -> int:
        """From where on this end needs bytes."""
        raise NotImplementedError

    def each(self, piece: memoryview, at: int) -> None:
        """Give, or take, some bytes."""
        raise NotImplementedError

    def sha256(self, start: int) -> str:
        """Return the digest of all bytes, of which those from `start` on went through `each`."""
        return self._digest.hexdigest() if start == 0 else file_digest(self.path, "sha256")

    def publish(self, start: int, sha256: str, expected: str | None) -> None:
        """Check what came, and make it the file."""
        raise NotImplementedError


class _Source(_End):
    """A file that is handed on."""

    @property
    def first_missing(self) -> int:
        return self.path.stat().st_size

    def each(self, piece: memoryview, at: int) -> None:
        with self.path.open("rb", buffering=0) as file:
            file.seek(at)
            done = 0
            while done < len(piece):
                count = file.readinto(piece[done:])
                if not count:
                    problem = "it became shorter while it was handed on"
                    raise CorruptCheckpointError(path=str(self.path), problem=problem)
                done += count
        self._digest.update(piece)


class _Arrival(_End):
    """A file in the making."""

    def __init__(self, journal: Journal, final: Path, what: str) -> None:
        super().__init__(journal.data)
        self._journal, self._final, self._what = journal, final, what

    @property
    def first_missing(self) -> int:
        return self._journal.first_missing

    def each(self, piece: memoryview, at: int) -> None:
        with writing_cache(self._final.parent):
            self._journal.keep(piece, at)
        self._digest.update(piece)

    def publish(self, start: int, sha256: str, expected: str | None) -> None:
        found = self.sha256(start)
        if found != sha256:
            raise CorruptCheckpointError(
                path=f"{self._final.name} as it arrived ({self._what})",
                problem=f"its SHA-256 is {found}, not {sha256}",
            )
        with writing_cache(self._final.parent):
            admit(self.path, self._final, self._what, sha256=found, expected=expected)


@contextlib.contextmanager
def _arriving(known: RemoteFile, final: Path, what: str) -> Iterator[_Arrival]:
    """Prepare for a file to come; keep what came of it when it is cut, drop it when it was wrong."""
    with writing_cache(final.parent):
        work = prepare_cache(final.parent)
        key = hashlib.sha256(final.name.encode()).hexdigest()[:16]
        private = own_directory(work, key)
    try:
        require_space(final, known.size_bytes - kept_bytes(private))
        with Journal(private, known, 1) as journal:
            yield _Arrival(journal, final, what)
    except CheckpointInvalidError:
        shutil.rmtree(private, ignore_errors=True)
        raise
    except BaseException:
        release(private, work, key)
        raise
    shutil.rmtree(private, ignore_errors=True)
