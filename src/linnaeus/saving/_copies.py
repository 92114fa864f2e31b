"""A run's copies in its bucket: which are missing there, sending one, and removing those no longer wanted.

There is no list of what was sent: what is missing is the difference between the run's directory and the
bucket's own listing, so nothing is forgotten when a process ends. A copy is this run's when the file itself
says so, by the id of its run; nothing else at the bucket is ever replaced or removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from linnaeus import pth
from linnaeus.errors import (
    CheckpointInvalidError,
    LinnaeusError,
    RemoteConflictError,
)
from linnaeus.remote import Progress, Remote, RemoteFile, Session
from linnaeus.resolving import all_there, describe_there, sharded_there
from linnaeus.runs import LATEST_LINK, RunCheckpoint, checkpoint_of, list_checkpoints, numbers_in_name
from linnaeus.saving._retention import Retention, decide
from linnaeus.saving._send import delete, send, shards_there

_log = logging.getLogger(__name__)

OWED = "not at the bucket yet"

_Identity = tuple[int, int, int]
_Version = tuple[str, int, str | None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What has not arrived yet: the next to send first."""

    checkpoints: tuple[RunCheckpoint, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(checkpoint.size_bytes for checkpoint in self.checkpoints)


def in_order(missing: list[RunCheckpoint], retention: Retention) -> list[RunCheckpoint]:
    """Return what to send first: the newest, then the best, then the others from new to old. Pure."""
    newest_first = sorted(missing, key=lambda c: (c.order, c.path.name), reverse=True)
    best = retention.ranked(newest_first[1:])[:1]
    return newest_first[:1] + best + [c for c in newest_first[1:] if c not in best]


class Copies:
    """The copies of one run.

    Args:
        directory: The run's checkpoints.
        remote: Its place in the bucket.
        retention: Which copies to keep.
        run: Returns the id by which this run's files are known.
        rank: Which of the ranks that send this one is. Only the first removes anything.
    """

    def __init__(
        self,
        directory: Path,
        remote: Remote,
        retention: Retention,
        run: Callable[[], str | None],
        *,
        rank: int = 0,
    ) -> None:
        self.directory = directory
        self.remote = remote
        self.retention = retention
        self._run, self._rank = run, rank
        self._same: dict[str, tuple[_Identity, _Version]] = {}
        self._described: dict[_Version, RunCheckpoint] = {}
        self._cleaned: set[str] = set()
        self._elsewhere: Sequence[RunCheckpoint] = ()

    @property
    def run(self) -> str | None:
        """The id by which this run's files are known; None where it isn't known."""
        return self._run()

    def choose_run(self, run_id: str) -> None:
        """Take another run's copies for these."""
        self._run = lambda: run_id

    def missing(self, session: Session) -> Waiting:
        """Return which checkpoints the bucket should have and has not.

        Raises:
            RemoteError: The bucket can't be asked.
        """
        there = self._listed(session)
        local = [
            c for c in list_checkpoints(self.directory) if c.problem is None and c.path.name != LATEST_LINK
        ]
        names = {c.path.name for c in local}
        elsewhere = [self._describe(session, file) for name, file in there.items() if name not in names]
        self._elsewhere = [c for c in elsewhere if self.is_ours(c)]
        absent = [c for c in self._wanted(local) if not self._has_arrived(session, c, there.get(c.path.name))]
        absent = [c for c in absent if not (c.is_part and self._waits_for_others(session, c))]
        return Waiting(tuple(in_order(absent, self.retention)))

    def _wanted(self, local: Sequence[RunCheckpoint]) -> list[RunCheckpoint]:
        """Return which of these the bucket should have, as far as is known of what else it has."""
        names = {c.name for c in local}
        others = [c for c in self._elsewhere if c.name not in names]
        verdicts = decide([*local, *others], self.retention)
        return [v.checkpoint for v in verdicts if v.keep and v.checkpoint.name in names]

    def owed(self, local: Sequence[RunCheckpoint]) -> Mapping[str, str]:
        """Return which checkpoints the bucket should and may not have, with the reason to keep them here.

        Asks nobody, in whatever thread: what is known is what was seen last.
        """
        wanted = self._wanted([c for c in local if c.problem is None and c.name != LATEST_LINK])
        return {c.name: OWED for c in wanted if not self._is_known_there(c.path)}

    def _is_known_there(self, path: Path) -> bool:
        known = self._same.get(path.name)
        return known is not None and known[0] == _identity(path)

    def _listed(self, session: Session) -> dict[str, RemoteFile]:
        files = all_there(session)
        return {file.name: file for file in files if numbers_in_name(file.name) and file.name != LATEST_LINK}

    def _describe(self, session: Session, file: RemoteFile) -> RunCheckpoint:
        """Return what a copy says of itself, asked once for each version of it."""
        version = _version(file)
        if version not in self._described:
            path = Path(file.name)
            try:
                found = checkpoint_of(path, describe_there(session, file.name, file.size_bytes))
            except CheckpointInvalidError as error:
                found = RunCheckpoint(path, *(numbers_in_name(file.name) or (0, 0)), problem=error)
            self._described[version] = found
        return self._described[version]

    def _has_arrived(self, session: Session, local: RunCheckpoint, there: RemoteFile | None) -> bool:
        if there is None or there.size_bytes != local.size_bytes:
            self._same.pop(local.name, None)
            return False
        identity = _identity(local.path)
        if self._same.get(local.path.name) != (identity, _version(there)):
            known = _known(session, there.name)
            if known is None or not self._is_same(session, local.path, known):
                return False
            self._same[local.path.name] = identity, _version(there)
        return True

    def _waits_for_others(self, session: Session, part: RunCheckpoint) -> bool:
        """Tell whether this node's part has arrived, and not yet all that other nodes have."""
        there = shards_there(session, part.path, part.name)
        *shards, _, _ = pth.files_told_of(part.path)
        return {*shards} - {*part.absent} <= there < {*shards}

    def _is_same(self, session: Session, path: Path, known: RemoteFile) -> bool:
        """Compare by the bucket's digest; where it keeps none, by what both files say of themselves.

        Directories by their commit files, which have the digests of all others. Shards of a bucket that keeps
        no digests have only their sizes to go by, until they are fetched.
        """
        if path.is_dir():
            name, here = f"{known.name}/{pth.COMMIT}", (path / pth.COMMIT).read_bytes()
            there = session.stat(name)
            is_alike = there is not None and there.size_bytes == len(here)
            return is_alike and session.read(name, 0, len(here)) == here
        for algorithm, digest in known.digests.items():
            return self.remote.digest_of(path, algorithm) == digest
        if "/" in known.name:
            return True
        return same_description(session, path, known)

    def send(self, session: Session, checkpoint: RunCheckpoint, progress: Progress | None) -> None:
        """Send one checkpoint, and prove that what stands there afterwards is it.

        Raises:
            RemoteConflictError: Another run's file has that name.
            RemoteError: It did not arrive.
        """
        name, started = checkpoint.path.name, time.monotonic()
        there = _known(session, name)
        if there is not None and not self.is_ours(self._describe(session, there)):
            raise self._conflict(self._describe(session, there))
        identity = _identity(checkpoint.path)
        same = partial(self._is_same, session)
        send(self.remote, session, checkpoint.path, name, same, progress, mark=self._mark() or "")
        arrived = _known(session, name)
        if arrived is not None:
            self._same[name] = identity, _version(arrived)
        # An older version may be hidden behind it, perhaps of a try whose answer was lost.
        self._cleaned.discard(name)
        seconds = time.monotonic() - started
        _log.info(
            "copied %s to %s: %d bytes in %.1f s", name, self.remote.place, checkpoint.size_bytes, seconds
        )

    def _conflict(self, there: RunCheckpoint) -> RemoteConflictError:
        own_place = "Give this run a place of its own: ENV.OUTPUT.BUCKET.PATH_PREFIX."
        tail, advice = "another run's file has that name", own_place
        if there.problem is not None:
            tail = f"what stands there can't be read, so nobody knows whose it is ({there.problem.problem})"
            advice = f"Remove it there if it is of no use, then: linnaeus push {self.directory}. {own_place}"
        return RemoteConflictError(
            remote=self.remote.place, operation=f"upload of {there.name}", tail=tail, advice=advice
        )

    def tidy(self, session: Session) -> list[str]:
        """Remove this run's copies that no rule keeps, and what is hidden behind those that stay.

        Returns:
            The names that were removed.
        """
        if self._rank != 0:
            return []
        ours = self._ours(session)
        # First, since what is hidden behind a copy that goes would be seen again.
        for name in ours.keys() - self._cleaned:
            self._drop_hidden(session, name)
            self._cleaned.add(name)
        verdicts = decide([c for c, _ in ours.values()], self.retention)
        removed = [verdict.checkpoint.path.name for verdict in verdicts if not verdict.keep]
        for name in removed:
            delete(session, name)
            _log.info("removed %s from %s: no rule keeps it", name, self.remote.place)
        return removed

    def _mark(self) -> str | None:
        """Return what uploads of this process are marked with, which others' are not taken for."""
        run = self._run()
        return f"{run}-{self._rank}" if run and self._rank else run

    def plan(self, session: Session) -> Mapping[str, tuple[str, ...]]:
        """Return this run's copies with the reasons to keep each; none for those that `tidy` would remove."""
        verdicts = decide([c for c, _ in self._ours(session).values()], self.retention)
        return {verdict.checkpoint.path.name: verdict.reasons for verdict in verdicts}

    def all_there(self, session: Session) -> list[RunCheckpoint]:
        """Return every checkpoint in the run's place, whoever wrote it."""
        return [self._describe(session, file) for file in self._listed(session).values()]

    def is_ours(self, checkpoint: RunCheckpoint) -> bool:
        """Tell whether a copy says that this run wrote it."""
        return checkpoint.run is not None and checkpoint.run == self._run()

    def _ours(self, session: Session) -> dict[str, tuple[RunCheckpoint, RemoteFile]]:
        found = {name: (self._describe(session, file), file) for name, file in self._listed(session).items()}
        return {name: pair for name, pair in found.items() if self.is_ours(pair[0])}

    def _drop_hidden(self, session: Session, name: str) -> None:
        for version in session.versions(name):
            if self.is_ours(self._describe(session, version)):
                session.delete(version.name)

    def drop_unfinished(self) -> None:
        """Drop uploads of this run that a killed process has not ended; where that is refused they stay."""
        mark = self._mark()
        try:
            dropped = self.remote.drop_unfinished(mark) if mark else []
        except LinnaeusError as error:
            _log.info("unfinished uploads stay in %s: %s", self.remote.place, error)
        else:
            for name in dropped:
                _log.info("dropped an unfinished upload of %s to %s", name, self.remote.place)


def same_description(session: Session, path: Path, known: RemoteFile) -> bool:
    """Compare a file here with one there by what both say of themselves, where no digest is kept."""
    there = describe_there(session, known.name, known.size_bytes)
    here = pth.describe(path)
    return (there.written, there.about, there.size_bytes) == (here.written, here.about, here.size_bytes)


def _version(file: RemoteFile) -> _Version:
    """Return what tells one version of a copy from another, in listings and look-ups alike."""
    return file.name, file.size_bytes, file.version or file.modified


def _known(session: Session, name: str) -> RemoteFile | None:
    """Return a file with its digests, or a finished directory of shards as if it were one."""
    return sharded_there(session, name) if name.endswith(pth.SHARDED) else session.stat(name)


def _identity(path: Path) -> _Identity:
    status = (path / pth.COMMIT if path.is_dir() else path).stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
