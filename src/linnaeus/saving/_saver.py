"""Write a run's checkpoints into its directory, and remove those that need not stay.

Order of acts, each of which may be the last before a crash: write and commit the new checkpoint; then point
the links; then prune. So nothing is removed before its successor is on disk, and a failure to write removes
nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.errors import SaveError
from linnaeus.files import Recycled, make_directory, point_link, recycle, remove_file, sweep_abandoned
from linnaeus.runs import BEST_LINK, LATEST_LINK, RunCheckpoint, checkpoint_name, list_checkpoints
from linnaeus.saving._retention import Retention

_log = logging.getLogger(__name__)


class Saver:
    """The writer of one run's directory.

    One pruned file that this process made is kept under a hidden name instead of being removed, and the
    next checkpoint is written over its blocks, which is several times faster than getting new ones.

    Args:
        directory: Where the run's checkpoints are.
        retention: Which of them to keep.
        check_finite: Refuse to save a model that holds NaN or infinities.
    """

    def __init__(self, directory: Path, retention: Retention, *, check_finite: bool = False) -> None:
        self.directory = directory
        self.retention = retention
        self._check_finite = check_finite
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

    def save(
        self,
        state: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        epoch: int,
        step: int,
        inside_epoch: bool,
        protected: Sequence[Path] = (),
    ) -> Path:
        """Write one checkpoint durably, then update the links and apply the retention.

        Args:
            state: The checkpoint's content, plain values and tensors.
            about: What the file says of itself.
            epoch: Completed epochs.
            step: Optimizer steps.
            inside_epoch: Whether an epoch is under way.
            protected: Files that the retention must keep.

        Raises:
            SaveError: It was not written; all older checkpoints are untouched.
        """
        started = time.monotonic()
        path = self.directory / checkpoint_name(epoch, step if inside_epoch else None)
        if self._check_finite:
            _refuse_not_finite(state, path)
        spare, self._spare = self._spare, None
        pth.save(dict(state), path, about=about, recycled=spare)
        seconds = time.monotonic() - started
        status = path.stat()
        self._made[path] = status.st_ino
        size_bytes = status.st_size
        _log.info("saved %s: step %d, %d bytes in %.2f s", path.name, step, size_bytes, seconds)
        try:
            self._tidy(path, protected)
        except OSError as error:
            raise self._failed(error) from error
        return path

    def _tidy(self, newest: Path, protected: Sequence[Path]) -> None:
        found = list_checkpoints(self.directory)
        verdicts = self.retention.decide(found, [*protected, newest])
        kept = [verdict.checkpoint for verdict in verdicts if verdict.keep]
        self._link(newest.name, kept)
        for verdict in verdicts:
            if not verdict.keep:
                self._remove(verdict.checkpoint.path)
                _log.info("pruned %s: no rule keeps it", verdict.checkpoint.path.name)

    def _link(self, newest_name: str, kept: list[RunCheckpoint]) -> None:
        point_link(self.directory / LATEST_LINK, newest_name)
        best = self.retention.ranked(kept)
        if best:
            point_link(self.directory / BEST_LINK, best[0].path.name)
        elif (self.directory / BEST_LINK).is_symlink():  # what it names is about to be pruned
            remove_file(self.directory / BEST_LINK)

    def _remove(self, path: Path) -> None:
        inode = self._made.pop(path, None)
        if inode is None or self._spare is not None:
            remove_file(path)
        else:
            self._spare = recycle(path, inode)

    def close(self) -> None:
        """Give back the blocks that were kept for a next checkpoint."""
        if self._spare is not None:
            remove_file(self._spare.path)
            self._spare = None

    def _failed(self, error: OSError) -> SaveError:
        return SaveError(path=str(error.filename or self.directory), problem=error.strerror or str(error))


def _refuse_not_finite(state: Mapping[str, Any], path: Path) -> None:
    names = pth.not_finite({key: state[key] for key in ("model", "ema") if key in state})
    if names:
        raise SaveError(
            path=str(path),
            problem=f"NaN or infinite values in {', '.join(names[:5])}",
            advice="Nothing was written. SCHEDULE.CHECKPOINT.CHECK_FINITE: false would save it all the same.",
        )
