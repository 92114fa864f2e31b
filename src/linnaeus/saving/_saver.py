"""Write a run's checkpoints into its directory, and remove those that need not stay.

Order of acts, each of which may be the last before a crash: write and commit the new checkpoint; then point
the links; then prune. So nothing is removed before its successor is on disk, and a failure to write removes
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.config import CheckpointScheduleConfig
from linnaeus.errors import SaveError, TornSaveError
from linnaeus.files import (
    Recycled,
    commit,
    commit_directory,
    fsync_directory,
    fsync_file,
    make_directory,
    recycle,
    remove,
    remove_file,
    require_space,
    sweep_abandoned,
    temporary_name,
)
from linnaeus.runs import RunCheckpoint, list_checkpoints
from linnaeus.saving._job import Job
from linnaeus.saving._links import point_links
from linnaeus.saving._retention import Retention, decide

_log = logging.getLogger(__name__)


class Saver:
    """The writer of one run's directory. Serves one job at a time, in whatever thread.

    One pruned file that this process made is kept under a hidden name instead of being removed, and the
    next checkpoint is written over its blocks, which is several times faster than getting new ones.

    Args:
        directory: Where the run's checkpoints are.
        plan: `SCHEDULE.CHECKPOINT`: which of them to keep, and whether to refuse a model that holds NaN or
            infinities.
        on_commit: Called after each checkpoint, in the writing thread; must return at once.
        owed: Returns which of the directory's checkpoints must stay for somebody else, with the reason.
        acts: Whether this process is the one, of all that see the directory, that prunes it.
    """

    def __init__(
        self,
        directory: Path,
        plan: CheckpointScheduleConfig,
        *,
        on_commit: Callable[[], None] = lambda: None,
        owed: Callable[[Sequence[RunCheckpoint]], Mapping[str, str]] = lambda _: {},
        acts: bool = True,
    ) -> None:
        self.directory = directory
        self.retention = Retention.of(plan)
        self._check_finite = plan.CHECK_FINITE
        self._on_commit = on_commit
        self._owed = owed
        self.acts = acts
        self._last: tuple[Path, Mapping[str, str]] | None = None
        self._followed: tuple[Path, Sequence[str]] | None = None
        self._made: dict[Path, int] = {}
        self._spare: Recycled | None = None

    def prepare(self) -> None:
        """Make the directory and sweep what a killed process left half-written in it.

        Raises:
            SaveError: The directory can't be made or written.
        """
        try:
            make_directory(self.directory)
            for entry in sweep_abandoned(self.directory):
                _log.info("swept %s, left by a process that ended", entry)
        except OSError as error:
            raise self._failed(error) from error

    def save(self, job: Job, permit: Callable[[], None]) -> int:
        """Write one checkpoint durably, then update the links and apply the retention.

        Args:
            job: What to save, and where.
            permit: Called right before anything becomes visible; raises when nothing may.

        Returns:
            The size of the file in bytes.

        Raises:
            SaveError: It was not written; all older checkpoints are untouched.
        """
        if self._check_finite and job.snapshot is not None:
            _refuse_not_finite(job.snapshot.content, job.path)
        temporary = self._temporary(job.path)
        try:
            self.write(job, temporary)
            permit()
            size_bytes = self.publish(temporary, job.path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            remove(temporary)
        self.announce()
        permit()
        self.retain(job)
        return size_bytes

    def _temporary(self, path: Path) -> Path:
        spare = None if path.suffix == pth.SHARDED else self.take_spare()
        return temporary_name(path) if spare is None else spare.path

    def take_spare(self) -> Recycled | None:
        """Hand out the pruned file that was kept to be written over, if there is one that is nobody's."""
        spare, self._spare = self._spare, None
        if spare is None or spare.is_nobodys():
            return spare
        remove_file(spare.path)  # somebody took it while it waited
        return None

    def write(self, job: Job, temporary: Path) -> None:
        """Write the content under a temporary name, and wait until it is on disk.

        Raises:
            SaveError: It can't be written.
            TornSaveError: The content did not hold still.
        """
        snapshot = job.snapshot
        guard = None if snapshot is None else snapshot.guard
        try:
            if guard is not None:
                guard.presum()  # before all else: until then a change could go unnoticed
            content = {} if snapshot is None else snapshot.content
            if job.path.suffix == pth.SHARDED:
                pth.write_sharded(content, temporary, job.path, job.about, held=guard)
            else:
                _write_file(job, content, temporary)
        except TornSaveError as error:
            error.path = str(job.path)
            raise

    def publish(self, temporary: Path, path: Path) -> int:
        """Make a finished file or directory, which is on disk, the checkpoint; return its size.

        Raises:
            OSError: The system refused.
        """
        if temporary.is_dir():
            commit_directory(temporary, path)
            return self.note_made(path)
        commit(temporary, path, durable=False)
        fsync_directory(path.parent)  # a power loss must not forget the name
        return self.note_made(path)

    def announce(self) -> None:
        """Tell whoever wants to know that there is a new checkpoint."""
        self._on_commit()

    def note_made(self, path: Path) -> int:
        """Note that this process made a checkpoint, whose blocks are its to reuse; return its size."""
        if path.is_file():
            self._made[path] = path.stat().st_ino
        return pth.size_of(path)

    def retain(self, job: Job) -> list[str]:
        """Point the links and remove what no rule keeps, now that the new checkpoint is there.

        Returns:
            The names of those that stay.

        Raises:
            SaveError: The system refused.
        """
        try:
            return self._tidy(job.path, job.protected)
        except OSError as error:
            raise self._failed(error) from error

    def retain_again(self) -> None:
        """Apply the retention once more, when nobody else needs what the last save had to leave.

        Raises:
            SaveError: The system refused.
        """
        if self._followed is not None:
            self.follow(*self._followed)
        if self._last is not None:
            self._made.clear()  # there is no next save whose blocks they could be
            try:
                self._tidy(*self._last)
            except OSError as error:
                raise self._failed(error) from error

    def follow(self, newest: Path, kept: Sequence[str]) -> None:
        """Do in a directory that only this node sees what was done in rank 0's: keep parts of the same ones.

        Args:
            newest: The checkpoint just saved.
            kept: The names that rank 0's directory keeps.

        Raises:
            SaveError: The system refused.
        """
        try:
            found = list_checkpoints(self.directory)
            owed = self._owed(found)
            self._followed = (newest, kept) if owed else None
            names = {newest.name, *kept, *owed}
            stay = [c for c in found if c.num_directories == 1 or c.name in names]
            point_links(self.directory, newest.name, stay, self.retention)
            for checkpoint in found:
                if checkpoint not in stay:
                    remove(checkpoint.path)
                    _log.info("pruned this node's part of %s", checkpoint.name)
        except OSError as error:
            raise self._failed(error) from error

    def _tidy(self, newest: Path, protected: Mapping[str, str]) -> list[str]:
        found = list_checkpoints(self.directory)
        owed = self._owed(found)
        self._last = (newest, protected) if owed else None
        verdicts = decide(found, self.retention, {newest.name: "just saved", **owed, **protected})
        kept = [verdict.checkpoint for verdict in verdicts if verdict.keep]
        point_links(self.directory, newest.name, kept, self.retention)
        for verdict in verdicts:
            if not verdict.keep:
                self._remove(verdict.checkpoint.path)
                _log.info("pruned %s: %s", verdict.checkpoint.name, verdict.reason)
        return [checkpoint.name for checkpoint in kept]

    def _remove(self, path: Path) -> None:
        inode = self._made.pop(path, None)
        if inode is None or self._spare is not None:
            remove(path)
        else:
            self._spare = recycle(path, inode)

    def close(self) -> None:
        """Give back the blocks that were kept for a next checkpoint."""
        if self._spare is not None:
            remove_file(self._spare.path)
            self._spare = None

    def _failed(self, error: OSError) -> SaveError:
        return SaveError(path=str(error.filename or self.directory), problem=error.strerror or str(error))


def _write_file(job: Job, content: Mapping[str, Any], temporary: Path) -> None:
    parts = pth.take_apart(dict(content), job.about, job.path)
    try:
        if not temporary.exists():
            require_space(job.path, parts.size_bytes)
        crc32s = parts.write(temporary, None if job.guard is None else job.guard.pieces)
        if job.guard is not None:
            job.guard.finish()  # a step need not wait for the disk
            job.guard.require_same(crc32s)
        fsync_file(temporary)
    except OSError as error:
        raise pth.save_error(error, job.path, parts.size_bytes) from error


def _refuse_not_finite(state: Mapping[str, Any], path: Path) -> None:
    names = pth.not_finite({key: state[key] for key in ("model", "ema") if key in state})
    if names:
        raise SaveError(
            path=str(path),
            problem=f"NaN or infinite values in {', '.join(names[:5])}",
            advice="Nothing was written. SCHEDULE.CHECKPOINT.CHECK_FINITE: false would save it all the same.",
        )
