"""Saves that all ranks of a job write together, beside training: `Pipeline` with one writer on each rank.

The same calls as for one process, each to be made on every rank at the same step. The writers agree among
themselves, through the job's store and in threads of their own. What became of a save is noticed at the same
call on every rank: once all writers know it, they agree on a call that no rank's training has passed yet.

Invariant: between two calls every rank has the same saves behind it and the same one under way, so that each
decides alike whether to wait, to skip, to do a save again, or to raise. The exception is a rank whose disk
hangs: the others give it up by their deadline, it gives up its own writer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus import pth
from linnaeus.config import CheckpointScheduleConfig
from linnaeus.distributed import Group
from linnaeus.errors import LinnaeusError, PeerFailedError, TornSaveError
from linnaeus.saving._account import Account, SaveRecord
from linnaeus.saving._job import AbandonedError, Job, Task
from linnaeus.saving._pipeline import Pipeline, Policy, hanging
from linnaeus.saving._saver import Saver

if TYPE_CHECKING:
    from linnaeus.state import RunParts, Share, SpareMemory

_LOOK_SECONDS = 0.2


def pipeline_of(
    group: Group,
    parts: RunParts,
    saver: Saver,
    make: Callable[[bool], Job],
    plan: CheckpointScheduleConfig,
    account: Account,
    clock: Callable[[], float],
) -> Pipeline:
    """Return what runs the saves of one process, or of all ranks together, be it one that has shards."""
    from linnaeus.state import holds_shards  # here: uploading stays free of torch

    policy = Policy.of(plan)
    if group.world_size == 1 and not holds_shards(parts.model):
        return Pipeline(saver, make, policy, account, clock)
    return JointPipeline(saver, make, policy, account, clock, group=group)


def share_now(
    parts: RunParts,
    numbers: Mapping[str, Any],
    spare: SpareMemory,
    group: Group,
    plan: CheckpointScheduleConfig,
    prepare: Callable[[], None],
    *,
    copy: bool,
) -> Share:
    """Return a rank's share of a run; what keeps this rank from having one is told to all by its writer.

    Args:
        parts: The run.
        numbers: Plain values that belong to the checkpoint too.
        spare: Memory for copies that become necessary.
        group: All ranks.
        plan: The section `SCHEDULE.CHECKPOINT`.
        prepare: What is to be done before.
        copy: Copy everything at once.
    """
    from linnaeus.state import Share, refuse_not_finite, share_of  # here: uploading stays free of torch

    ranks = group.rank, group.world_size
    try:
        prepare()
        if plan.CHECK_FINITE:
            refuse_not_finite(parts.model, Path(f"step {numbers['step']}"))
        return share_of(parts, numbers, spare, *ranks, copy=copy, is_held=plan.ASYNC)
    except LinnaeusError as error:
        return Share(*ranks, problem=error)


@dataclass(slots=True)
class _Calls:
    """How often training has come by, which is the same number on every rank at the same place."""

    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class JointPipeline(Pipeline):
    """Runs saves of all ranks.

    Args:
        saver: Keeps the directory; used on rank 0.
        make: Takes this rank's share of the run as it is now; by copy if told so.
        policy: How to behave.
        account: Where saves are counted.
        clock: Seconds, monotonic; decides when to try again.
        group: All ranks.
    """

    def __init__(
        self,
        saver: Saver,
        make: Callable[[bool], Job],
        policy: Policy,
        account: Account,
        clock: Callable[[], float],
        *,
        group: Group,
    ) -> None:
        super().__init__(saver, make, policy, account, clock)
        self._is_first, self._writers = group.roles.is_first, group.beside("writing")
        self._calls, self._number, self._is_settling = _Calls(), 0, False
        self._turn: _Turn | None = None

    @property
    def wishes_to_save(self) -> bool:
        """Whether it is time for this rank to try again, which is then for all to agree on."""
        return self._task is None and self._again_at is not None and self._clock() >= self._again_at

    def poll(self) -> None:
        """Notice what became of the save under way, if all ranks are to notice it now.

        Raises:
            SaveError: It failed, on this rank or on another.
        """
        with self._calls.lock:
            self._calls.count += 1
        turn, task = self._turn, self._task
        if turn is not None and task is not None and turn.may_be_due:  # the others are telling right now
            started = time.perf_counter()
            self._wait_for(task)
            self._blocked(task, time.perf_counter() - started)
        super().poll()

    def settle(self) -> None:
        """Wait for the save under way, on every rank.

        Raises:
            SaveError: It failed, on this rank or on another.
        """
        self._is_settling = True
        try:
            super().settle()
        finally:
            self._is_settling = False

    def _is_over(self, task: Task) -> bool:
        turn = self._turn
        return task.is_finished and (self._is_settling or turn is None or turn.is_due)

    def _is_hanging(self, task: Task) -> bool:
        # Waiting for others ends by itself, and tells who they are.
        busy = 0.0 if self._turn is None else self._turn.busy_seconds
        return not task.is_finished and busy > self._policy.deadline_seconds

    def _wait_for(self, task: Task) -> None:
        while not task.wait(_LOOK_SECONDS) and not self._is_hanging(task):
            pass

    def _is_due_again(self) -> bool:
        return self._again_at == -math.inf  # else clocks decide, which are each rank's own

    def _look_after_stuck(self) -> bool:
        if self._stuck is not None and self._stuck.is_finished:
            self._stuck = None
        return False  # the others are to know, and so it is told with the next save

    def _new_task(self) -> Task:
        job = self._make(self._copying.is_on)
        if self._stuck is not None and job.share is not None:
            job = replace(job, share=replace(job.share, problem=hanging(self._stuck)))
        self._number += 1
        self._turn = _Turn(self._saver, self._writers, self._number, self._calls)
        return Task(job, self._turn.save)

    def _give(self, task: Task) -> None:
        if task.job.share is None or not task.job.share.is_collective:
            super()._give(task)
            return
        self._is_settling = True  # nobody goes on before it is written
        task.run()

    def _start(self) -> Task:
        task = super()._start()
        if self._is_settling:
            self.settle()
        return task

    def _give_up(self, task: Task) -> None:
        self._writers = self._writers.beside("writing")  # the thread that hangs keeps its connection
        super()._give_up(task)

    def _note(self, record: SaveRecord) -> None:
        if self._is_first:
            super()._note(record)


class _Turn:
    """One save, as this rank's writer does it together with those of the others."""

    def __init__(self, saver: Saver, group: Group, number: int, calls: _Calls) -> None:
        self._saver, self._group, self._calls = saver, group, calls
        self._number, self._is_told = number, False
        self._busy_since: float | None = None
        self._asked_at = self._due_at = math.inf

    @property
    def rank(self) -> int:
        """This process's number."""
        return self._group.rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self._group.world_size

    @property
    def busy_seconds(self) -> float:
        """How long this rank's own part, not the waiting for others, has been under way."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def may_be_due(self) -> bool:
        """Whether training must wait until all ranks know when to notice what became of the save."""
        return self._calls.count >= self._asked_at

    @property
    def is_due(self) -> bool:
        """Whether what became of the save is to be noticed now, or was before."""
        return self._calls.count >= self._due_at

    def save(self, job: Job, permit: Callable[[], None]) -> int:
        """Write this rank's share; return the size of the file when it is a checkpoint.

        Args:
            job: What to save, and where.
            permit: Called right before anything becomes visible; raises when nothing may.

        Raises:
            SaveError: It failed on this rank.
            PeerFailedError: It failed on another one.
        """
        self._group.begin_chapter(self._number)
        try:
            size_bytes = self._write_told(job, permit)
            self._agree_when(2)  # nothing to hurry for, so that nobody has to wait for the word
        except (AbandonedError, KeyboardInterrupt, SystemExit):
            self._due_at = -math.inf  # the others are not to wait for this rank, nor it for them
            raise
        except PeerFailedError as error:
            if error.missing:
                self._due_at = -math.inf  # there is nobody to agree with
                raise
            self._agree_when(1)
            raise
        except BaseException:
            self._agree_when(1)
            raise
        return size_bytes

    def _write_told(self, job: Job, permit: Callable[[], None]) -> int:
        """Write; whatever keeps this rank from it between two agreements is told at the next one."""
        try:
            return self._write(job, permit)
        except TornSaveError:  # on all ranks, which have agreed on it
            raise
        except BaseException as error:
            if not self._is_told:
                self.agree("saving", _raiser(error))
            raise

    def _agree_when(self, num_calls: int) -> None:
        """Agree with all ranks on the call at which they notice; none gets past it before it is known."""
        with self._calls.lock:
            self._asked_at = mine = self._calls.count + num_calls
        self._due_at = -math.inf
        self._due_at = self._group.agree("what became of a save", lambda: mine, merge=max)

    def _write(self, job: Job, permit: Callable[[], None]) -> int:
        from linnaeus.state import begin_together  # here, so that uploading stays free of torch

        share = job.share
        assert share is not None  # noqa: S101 - what ranks save always has one

        def publish(temporary: Path) -> list[str]:
            permit()
            self._saver.publish(temporary, job.path)
            if self.rank != 0:  # a part, which is one of a checkpoint when rank 0's is there
                return []
            self._saver.announce()
            permit()
            return self._saver.retain(job)

        def follow(kept: list[str]) -> None:
            if self._saver.acts:
                self._saver.announce()
                permit()
                self._saver.follow(job.path, kept)

        content, shares = begin_together(share, self)
        if job.path.suffix == pth.SHARDED:
            return pth.save_sharded(
                content,
                job.path,
                shares=shares,
                ranks=self,
                about=job.about,
                held=share.guard,
                publish=publish,
                follow=follow,
            )
        return pth.save_together(
            content,
            job.path,
            shares=shares,
            ranks=self,
            about=job.about,
            recycled=self._saver.take_spare() if self.rank == 0 else None,
            held=share.guard,
            publish=publish,
        )

    def agree(self, what: str, act: Callable[[], Any], **ways: Any) -> Any:
        """Agree with all ranks, and note how long this one's own part takes."""
        if "conclude" in ways:
            conclude = ways["conclude"]
            ways["conclude"] = lambda merged: self._timed(lambda: conclude(merged))
        try:
            return self._group.agree(what, lambda: self._timed(act), **ways)
        except BaseException:
            self._is_told = True
            raise

    def _timed(self, act: Callable[[], Any]) -> Any:
        self._busy_since = time.monotonic()
        try:
            return act()
        finally:
            self._busy_since = None


def _raiser(error: BaseException) -> Callable[[], Any]:
    """Return what comes to an agreement with a failure."""

    def act() -> None:
        raise error

    return act
