"""One save at a time, beside training: begin it, notice its end, and act on what it met.

Invariant: there is at most one save in flight, and whatever it meets is raised in the training thread, at
its very next call, also when that is `close` or the interpreter's exit. A save that fails removes and
replaces nothing. One whose content did not hold still is done again, by copy, at the next call.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from linnaeus.config import CheckpointScheduleConfig
from linnaeus.errors import LinnaeusError, SaveTimeoutError, TornSaveError
from linnaeus.saving._account import Account, SaveRecord
from linnaeus.saving._copying import Copying
from linnaeus.saving._exit import fail_at_exit
from linnaeus.saving._job import Job, Task, Worker
from linnaeus.saving._saver import Saver

_log = logging.getLogger(__name__)

# How long to wait before each further try; when the last has failed, that is raised.
_RETRY_AFTER_SECONDS = (1.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """How saving behaves beside training.

    Attributes:
        is_async: Save in the background; else training waits for each save.
        when_busy: What to do when a save is due while one is under way: "wait" for it, or "skip".
        on_failure: "raise", or "warn" and go on, or "retry" a few times before raising.
        deadline_seconds: When a save is taken to hang.
        hold_seconds: How long a step waits for the writer before what is left is copied.
    """

    is_async: bool = True
    when_busy: str = "wait"
    on_failure: str = "raise"
    deadline_seconds: float = 600.0
    hold_seconds: float = 0.002

    @classmethod
    def of(cls, plan: CheckpointScheduleConfig) -> Policy:
        """Return what a config says, its section `SCHEDULE.CHECKPOINT`."""
        return cls(
            is_async=plan.ASYNC,
            when_busy=plan.WHEN_BUSY,
            on_failure=plan.ON_FAILURE,
            deadline_seconds=plan.DEADLINE_SECONDS,
            hold_seconds=plan.HOLD_SECONDS,
        )


class Pipeline:
    """Runs saves.

    Args:
        saver: Writes them.
        make: Takes a snapshot of the run as it is now; by copy if told so.
        policy: How to behave.
        account: Where saves are counted.
        clock: Seconds, monotonic; decides when to try again.
    """

    def __init__(
        self,
        saver: Saver,
        make: Callable[[bool], Job],
        policy: Policy,
        account: Account,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_saved: Path | None = None
        self._saver = saver
        self._make = make
        self._policy = policy
        self._account = account
        self._clock = clock
        self._process = os.getpid()
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._stuck: Task | None = None
        self._copying = Copying()
        self._num_failed = 0
        self._raise_always = False
        self._again_at: float | None = None

    @property
    def newest(self) -> Path | None:
        """The checkpoint under way, else the last one made."""
        return self._task.job.path if self._task is not None else self.last_saved

    @property
    def wishes_to_save(self) -> bool:
        """Whether a save is to be begun although none is due; `poll` sees to what this process can decide."""
        return False

    def poll(self) -> None:
        """Notice what became of the save under way; begin again what has to be.

        Raises:
            SaveError: It failed, or hangs.
        """
        self._notice()

    def _notice(self) -> None:
        task = self._task
        if task is not None and self._is_over(task):
            self._conclude(task)
        elif task is not None and self._is_hanging(task):
            self._give_up(task)
        if self._again_at is not None and self._task is None and self._is_due_again():
            self._begin()

    def _is_over(self, task: Task) -> bool:
        """Tell whether what became of a save is to be noticed now."""
        return task.is_finished

    def _is_hanging(self, task: Task) -> bool:
        return not task.is_finished and task.age_seconds > self._policy.deadline_seconds

    def _is_due_again(self) -> bool:
        return self._again_at is not None and self._clock() >= self._again_at

    def submit(self) -> bool:
        """Save the run as it is now, in the background; tell whether it was begun.

        Raises:
            SaveError: An earlier save failed; or this one, when saves are not asynchronous.
        """
        if self._task is not None and not self._is_over(self._task) and self._policy.when_busy == "skip":
            self._account.num_skipped += 1
            _log.warning("skipped a save: %s is still being written", self._task.job.path.name)
            return False
        self.settle()
        if self._task is None:  # else what had to be done again is under way, of this very moment
            self._begin()
        if not self._policy.is_async:
            self.settle()
        return True

    def settle(self) -> None:
        """Wait for the save under way.

        Raises:
            SaveError: It failed, or hangs.
        """
        task = self._task
        if task is not None and not task.is_finished:
            started = time.perf_counter()
            self._wait_for(task)
            self._blocked(task, time.perf_counter() - started)
        if task is not None and not task.is_finished:
            self._give_up(task)
        self._notice()

    def _wait_for(self, task: Task) -> None:
        task.wait(self._policy.deadline_seconds - task.age_seconds)

    def save_now(self) -> Path:
        """Save the run as it is now, and wait until it is on disk; return the file.

        Raises:
            SaveError: It failed, whatever the policy says of failures.
        """
        self._raise_always = True
        try:
            self.settle()
            self._look_after_stuck()
            task = self._task or self._start()
            self.finish()
        finally:
            self._raise_always = False
        return task.job.path

    def finish(self) -> None:
        """Wait for the save under way, and for what has to be done again, now.

        Raises:
            SaveError: One failed.
        """
        self.settle()
        while self._again_at is not None or self._task is not None:
            if self._task is None:
                self._begin()
            self.settle()

    def release(self) -> None:
        """Return when parameters and optimizer state may be changed."""
        task = self._task
        if task is None:
            return
        started = time.perf_counter()
        hold, deadline = self._policy.hold_seconds, self._policy.deadline_seconds
        task.job.release(hold_seconds=hold, no_memory_seconds=deadline)
        self._blocked(task, time.perf_counter() - started)

    def close(self) -> None:
        """Finish, and give everything back.

        Raises:
            SaveError: The last save failed.
        """
        try:
            self.finish()
        finally:
            self._again_at = None
            self._dismiss()
            self._saver.close()

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()
            self._worker = None

    def _blocked(self, task: Task, seconds: float) -> None:
        task.blocked_seconds += seconds
        self._account.blocked_seconds += seconds

    def _begin(self) -> None:
        self._again_at = None
        if not self._look_after_stuck():
            self._start()

    def _look_after_stuck(self) -> bool:
        """Tell whether a save that was given up still hangs, which is a failure of the next one too."""
        if self._stuck is None or self._stuck.is_finished:
            self._stuck = None
            return False
        self._failed(hanging(self._stuck))
        return True

    def _start(self) -> Task:
        started = time.perf_counter()
        task = self._task = self._new_task()
        atexit.register(self._at_exit)
        self._give(task)
        self._blocked(task, time.perf_counter() - started)
        return task

    def _new_task(self) -> Task:
        return Task(self._make(self._copying.is_on), self._saver.save)

    def _give(self, task: Task) -> None:
        if self._worker is None:
            self._worker = Worker()
        self._worker.give(task)

    def _end(self) -> None:
        self._task = None
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if os.getpid() != self._process:
            return  # a forked child, which has none of the threads
        try:
            self.close()
        except LinnaeusError as error:
            fail_at_exit(error)

    def _conclude(self, task: Task) -> None:
        self._end()
        if isinstance(task.error, TornSaveError):
            self._account.num_redone += 1
            num, self._again_at = self._copying.begin(), -math.inf  # at once
            _log.warning("%s Saving again, by copy, as the next %d saves of this run.", task.error, num)
        elif task.error is not None:
            self._failed(task.error)
        else:
            self._num_failed = 0
            self._copying.saved()
            self.last_saved = task.job.path
            self._note(
                SaveRecord(
                    path=task.job.path,
                    step=task.job.step,
                    size_bytes=task.size_bytes,
                    blocked_seconds=task.blocked_seconds,
                    write_seconds=task.seconds,
                    cpu_seconds=task.cpu_seconds,
                )
            )

    def _note(self, record: SaveRecord) -> None:
        self._account.note(record)

    def _give_up(self, task: Task) -> None:
        task.abandon()
        self._end()
        self._stuck = task
        self._dismiss()  # the next save has another thread
        self._copying.begin()  # what it may still read is left to it
        _log.error("%s hangs; all stacks:\n%s", task.job.path.name, _all_stacks())
        self._failed(hanging(task))

    def _failed(self, error: LinnaeusError) -> None:
        self._account.num_failures += 1
        self._num_failed += 1
        if self._raise_always:
            self._num_failed = 0
            raise error
        if self._policy.on_failure == "warn":
            _log.warning("%s Going on without it (ON_FAILURE: warn).", error)
            return
        if self._policy.on_failure == "retry" and self._num_failed <= len(_RETRY_AFTER_SECONDS):
            wait = _RETRY_AFTER_SECONDS[self._num_failed - 1]
            self._again_at = self._clock() + wait
            _log.warning("%s Trying again in %g s (ON_FAILURE: retry).", error, wait)
            return
        self._num_failed = 0
        raise error


def hanging(task: Task) -> SaveTimeoutError:
    """Return what to raise for a save that does not end."""
    return SaveTimeoutError(
        path=str(task.job.path),
        problem="it is still not written",
        seconds=round(task.age_seconds, 1),
        stack=task.stack(),
    )


def _all_stacks() -> str:
    frames = sys._current_frames().items()
    return "\n".join(f"thread {key}:\n{''.join(traceback.format_stack(frame))}" for key, frame in frames)
