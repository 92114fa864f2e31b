"""Saves that all ranks of a job write together, while training waits.

The same calls as `Pipeline`, so a run does not know how many it is. Each must be made on every rank at the
same step. Every rank has the same outcome of a save; links and retention are rank 0's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus import pth
from linnaeus.config import CheckpointScheduleConfig
from linnaeus.distributed import Group
from linnaeus.errors import SaveError
from linnaeus.saving._account import Account, SaveRecord
from linnaeus.saving._job import Job
from linnaeus.saving._pipeline import Pipeline, Policy
from linnaeus.saving._saver import Saver

if TYPE_CHECKING:
    from linnaeus.state import RunParts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JointJob:
    """What a rank saves of a run, and where.

    Attributes:
        path: The checkpoint's name, the same on every rank.
        step: Optimizer steps done.
        content: The checkpoint's content, whole in form.
        shares: What of it this rank has.
        about: What the file says of itself; rank 0's.
        protected: Names of files that retention must keep, with the reason.
    """

    path: Path
    step: int
    content: Mapping[str, Any]
    shares: pth.Shares
    about: Mapping[str, Any]
    protected: Mapping[str, str]


def joint_job(
    parts: RunParts,
    group: Group,
    job: Job,
    *,
    check_finite: bool,
) -> JointJob:
    """Return what this rank has of what there is to save now.

    Args:
        parts: The run.
        group: All ranks.
        job: Where to, and what there is beside the parts.
        check_finite: Refuse a model that holds NaN or infinities on any rank.

    Raises:
        SaveError: This rank's part of the model holds such values.
        PeerFailedError: Another rank's does, or one is missing.
    """
    from linnaeus.state import capture_share, refuse_not_finite  # here, so that uploading stays free of torch

    if check_finite:
        group.agree("checking values", lambda: refuse_not_finite(parts.model, job.path))
    state, shares = capture_share(parts, group)
    content = state | (job.snapshot.content if job.snapshot else {})
    return JointJob(job.path, job.step, content, shares, job.about, job.protected)


def pipeline_of(
    group: Group,
    saver: Saver,
    make: Callable[[bool], Job],
    make_joint: Callable[[], JointJob],
    plan: CheckpointScheduleConfig,
    account: Account,
    clock: Callable[[], float],
) -> Pipeline | JointPipeline:
    """Return what runs the saves of one process, or of all ranks together."""
    if group.world_size == 1:
        return Pipeline(saver, make, Policy.of(plan), account, clock)
    return JointPipeline(saver, make_joint, group, account, on_failure=plan.ON_FAILURE)


class JointPipeline:
    """Runs saves of all ranks, one after the other.

    Args:
        saver: Keeps the directory; used on rank 0.
        make: Returns what there is to save now.
        group: All ranks.
        account: Where saves are counted.
        on_failure: "raise", or "warn" and go on.
    """

    def __init__(
        self,
        saver: Saver,
        make: Callable[[], JointJob],
        group: Group,
        account: Account,
        *,
        on_failure: str = "raise",
    ) -> None:
        self.last_saved: Path | None = None
        self._saver, self._make, self._group, self._account = saver, make, group, account
        self._only_warns = on_failure == "warn"

    @property
    def newest(self) -> Path | None:
        """The last checkpoint made."""
        return self.last_saved

    def poll(self) -> None:
        """Notice nothing: no save is ever under way between two calls."""

    def submit(self) -> bool:
        """Save the run as it is now, and wait until it is on disk.

        Raises:
            SaveError: It failed on this rank.
            PeerFailedError: It failed on another one.
        """
        try:
            self.save_now()
        except SaveError as error:
            if not self._only_warns:
                raise
            _log.warning("%s Going on without it (ON_FAILURE: warn).", error)
        return True

    def save_now(self) -> Path:
        """Save the run as it is now, and return the file.

        Raises:
            SaveError: It failed on this rank.
            PeerFailedError: It failed on another one.
        """
        started = time.perf_counter()
        try:
            job = self._make()
            self._write(job)
        except SaveError:
            self._account.num_failures += 1
            raise
        seconds = time.perf_counter() - started
        self.last_saved = job.path
        self._account.blocked_seconds += seconds
        if self._group.roles.is_first:
            size_bytes = pth.size_of(job.path)
            self._account.note(SaveRecord(job.path, job.step, size_bytes, seconds, seconds))
        return job.path

    def _write(self, job: JointJob) -> None:
        content, ranks = dict(job.content), self._group
        if job.path.suffix == pth.SHARDED:
            pth.save_sharded(content, job.path, shares=job.shares, ranks=ranks, about=job.about)
        else:
            spare = self._saver.take_spare() if ranks.roles.is_first else None
            pth.save_together(
                content, job.path, shares=job.shares, ranks=ranks, about=job.about, recycled=spare
            )
        if self._group.roles.is_first:
            self._saver.committed(job.path)
        self._group.agree(
            f"pruning after {job.path.name}", lambda: None, conclude=lambda _: self._saver.retain(_kept(job))
        )

    def finish(self) -> None:
        """Wait for nothing: no save is ever under way between two calls."""

    def release(self) -> None:
        """Let parameters be changed at once: no save reads them between two calls."""

    def close(self) -> None:
        """Give everything back."""
        self._saver.close()


def _kept(job: JointJob) -> Job:
    """Return what retention needs to know of a save."""
    from linnaeus.state import Snapshot

    return Job(job.path, job.step, Snapshot({}), job.about, job.protected)
