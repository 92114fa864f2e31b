"""Bring a directory of shards from a bucket: once, all of its files, verified, under their name together.

Invariant: as for one file, the name appears only when everything is there, whole and on disk. The commit file
is read first: it tells at once whether this is what is wanted, and which bytes every other file must have. It
is written last. After a cut the files that had come are kept, and gone on from.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.files import (
    commit,
    file_digest,
    fsync_file,
    remove,
    require_space,
    sweep_abandoned,
    take_over,
    temporary_name,
)
from linnaeus.remote import Transfer
from linnaeus.resolving._admission import admit_directory, refused
from linnaeus.resolving._pins import mismatch
from linnaeus.resolving._places import describe_cache, nearest
from linnaeus.resolving._records import note
from linnaeus.resolving._sharded_there import about_sharded, sizes_there
from linnaeus.resolving._single_flight import kept_when_cut, once, writing_cache
from linnaeus.resolving._unfinished import LARGE_BYTES, room_for

if TYPE_CHECKING:
    from linnaeus.remote import Progress, Remote, Session

_log = logging.getLogger(__name__)

_ARRIVING = "arriving"


def fetch_sharded(
    remote: Remote,
    name: str,
    final: Path,
    *,
    progress: Progress | None = None,
    expected: str | None = None,
) -> Path:
    """Fetch a directory of shards, unless it is here by now or another process fetches it meanwhile.

    Args:
        remote: Where it is.
        name: Its name there.
        final: The directory here; what it is in is made if need be.
        progress: Called now and then, for each file.
        expected: The SHA-256 that its commit file must have; other content is not fetched.

    Raises:
        CheckpointNotFoundError: There is no finished directory of that name.
        PinMismatchError: There is another one than `expected`.
        CheckpointInvalidError: What is there, or what arrived, is no whole checkpoint.
        RemoteError: The bucket refused or can't be reached.
        SaveError: It can't be written here.
    """
    return once(final, lambda work: _Fetch(remote, name, final, work, progress, expected).run())


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One directory on its way from a remote to its place."""

    remote: Remote
    name: str
    final: Path
    work: Path
    progress: Progress | None
    expected: str | None

    def run(self) -> None:
        """Bring it, check it, publish it; one line in the log."""
        started = time.monotonic()
        with self.remote.session() as session:
            told, sums = self._promised(session)
            with kept_when_cut(self.final, self.work) as private:
                shards, num_bytes = self._gather(session, private, told, sums)
                admit_directory(shards, self.final, self._arrived, expected=self.expected)
        note(self.final, sums[pth.COMMIT].sha256, self.remote.place)
        _log.info(
            "fetched %s from %s: %d bytes in %.1f s, %d of them in an earlier try",
            self.name,
            self.remote.place,
            (total := sum(one.size_bytes for one in sums.values())),
            time.monotonic() - started,
            total - num_bytes,
        )

    @property
    def _arrived(self) -> str:
        return f"{self.name} as it arrived from {self.remote.place}"

    def _promised(self, session: Session) -> tuple[bytes, dict[str, pth.FileSum]]:
        """Return the commit file, and what it tells of all files, which are there in these sizes."""
        sizes = sizes_there(session, self.name)
        if pth.COMMIT not in sizes:
            raise self._not_found(session, is_begun=bool(sizes))
        try:
            told, sums = about_sharded(
                session, self.name, sizes, lambda data: (data, pth.sums_there(self.name, data, sizes))
            )
        except CheckpointInvalidError as error:
            raise refused(error, f"{self.name} in {self.remote.place}") from error
        found = sums[pth.COMMIT].sha256
        if self.expected is not None and found != self.expected:
            raise mismatch(f"{self.name} in {self.remote.place}", self.expected, found)
        return told, sums

    def _not_found(self, session: Session, *, is_begun: bool) -> CheckpointNotFoundError:
        files, folders = session.files_and_folders()
        finding = f"never finished, without {pth.COMMIT}, in" if is_begun else "not in"
        there = [*(file.name for file in files), *(name for name in folders if name != self.name)]
        return CheckpointNotFoundError(
            identifier=self.name,
            places=[describe_cache(str(self.final.parent)), f"{finding} {self.remote.place}"],
            nearest=nearest(self.name, there + [entry.name for entry in self.final.parent.iterdir()]),
            advice="List what there is: linnaeus ls --remote",
        )

    def _gather(
        self, session: Session, private: Path, told: bytes, sums: dict[str, pth.FileSum]
    ) -> tuple[Path, int]:
        """Bring together what an earlier try has not; return where it is, and how many bytes were missing."""
        shards, growing = room_for(private, [[name, *one.to_plain()] for name, one in sums.items()])
        missing = {name: one for name, one in sums.items() if not (shards / name).is_file()}
        num_bytes = sum(one.size_bytes for one in missing.values())
        require_space(self.final, num_bytes)
        for name, one in missing.items():
            if name == pth.COMMIT:
                arrived = _written(told, growing)
            elif one.size_bytes < LARGE_BYTES:
                arrived = _written(self._small(session, name, one), growing)
            else:
                arrived = self._large(session, name, one, private)
            take_over(arrived, shards / name)
        for name in sums:  # not one by one: the disk is at work while others are on their way
            fsync_file(shards / name)
        return shards, num_bytes

    def _small(self, session: Session, name: str, one: pth.FileSum) -> bytes:
        """Return a file's bytes; what is damaged is asked for again, since that may have been on the way."""
        for is_last in (False, True):
            data = session.read(f"{self.name}/{name}", 0, one.size_bytes) if one.size_bytes else b""
            if is_last or sha256(data).hexdigest() == one.sha256:
                break
        if self.progress is not None:
            self.progress(Transfer(f"{self.name}/{name}", len(data), len(data), 0.0))
        self._require(name, sha256(data).hexdigest(), one)
        return data

    def _large(self, session: Session, name: str, one: pth.FileSum, private: Path) -> Path:
        """Bring a file over several streams, going on where an earlier try was cut."""
        there, algorithms = f"{self.name}/{name}", ["sha256"]
        arrived = self.remote.download(
            there, private, algorithms=algorithms, progress=self.progress, session=session
        )
        self._require(name, arrived.digests["sha256"], one)
        return arrived.path

    def _require(self, name: str, found: str, one: pth.FileSum) -> None:
        """Check that a file is what was promised."""
        if found != one.sha256:
            problem = f"{name}: its SHA-256 is {found}, not {one.sha256}"
            error = CorruptCheckpointError(path=self._arrived, problem=problem, record=name)
            raise refused(error, self._arrived)


def _written(data: bytes, growing: Path) -> Path:
    (growing / _ARRIVING).write_bytes(data)
    return growing / _ARRIVING


def complete_sharded(remote: Remote, name: str, final: Path, *, progress: Progress | None = None) -> bool:
    """Fetch what a part of a checkpoint lacks, if the bucket has the same checkpoint; then check all of it.

    Args:
        remote: Where it is.
        name: Its name there.
        final: The part.
        progress: Called now and then, for each file.

    Returns:
        False where this can't be: there is another one of that name, or what is here is damaged.

    Raises:
        CheckpointInvalidError: What arrived is damaged.
        RemoteError: The bucket refused or can't be reached.
        SaveError: It can't be written here.
    """
    ours = (final / pth.COMMIT).read_bytes()
    with remote.session() as session:
        there = session.stat(f"{name}/{pth.COMMIT}")
        if there is None or session.read(f"{name}/{pth.COMMIT}", 0, there.size_bytes) != ours:
            return False
    sums = pth.files_told_of(final)
    missing = [one for one in sums if not (final / one).exists()]
    with writing_cache(final.parent):
        sweep_abandoned(final)
        require_space(final, sum(sums[one].size_bytes for one in missing))
        for one in missing:
            _bring_one(remote, f"{name}/{one}", final / one, sums[one].sha256, progress)
    return pth.verify(final).ok


def _bring_one(remote: Remote, name: str, final: Path, sha256: str, progress: Progress | None) -> None:
    arriving = temporary_name(final)
    try:
        remote.fetch(name, arriving, progress=progress)
        if file_digest(arriving, "sha256") != sha256:
            raise CorruptCheckpointError(
                path=f"{name} as it arrived from {remote.place}",
                problem="its SHA-256 is not what the commit file says",
            )
        commit(arriving, final)
    finally:
        remove(arriving)
