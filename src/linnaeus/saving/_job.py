"""One checkpoint to be made, and the thread that makes them while training goes on."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import LinnaeusError, SaveError

if TYPE_CHECKING:
    from linnaeus.state import Guard, Share, Snapshot


@dataclass(frozen=True, slots=True)
class Job:
    """What to save, and where.

    Attributes:
        path: The checkpoint's name.
        step: Optimizer steps done, for messages.
        snapshot: The content; None when it is written, and where ranks have a share of it each.
        about: What the file says of itself.
        protected: Names of files that retention must keep, with the reason.
        share: What this rank has of the content; None when it is written.
    """

    path: Path
    step: int
    snapshot: Snapshot | None
    about: Mapping[str, Any]
    protected: Mapping[str, str]
    share: Share | None = None

    @property
    def guard(self) -> Guard | None:
        """Guards what of the content is the run's own."""
        content = self.snapshot or self.share
        return None if content is None else content.guard

    def release(self, *, hold_seconds: float, no_memory_seconds: float) -> None:
        """Return when parameters and optimizer state may be changed; likewise `Snapshot.release`."""
        content = self.snapshot or self.share
        if content is not None:
            content.release(hold_seconds=hold_seconds, no_memory_seconds=no_memory_seconds)


class AbandonedError(Exception):
    """The task was given up; whatever it still does must not be seen."""


class Task:
    """A job under way.

    Args:
        job: What to save.
        act: Saves it and returns the file's size; calls its second argument right before it makes
            anything visible, which raises `AbandonedError` when it is too late.
    """

    def __init__(self, job: Job, act: Callable[[Job, Callable[[], None]], int]) -> None:
        self.job = job
        self.blocked_seconds = 0.0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.size_bytes = 0
        self.error: LinnaeusError | None = None
        self._act = act
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._started = time.monotonic()
        self._thread_id = 0

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self._finished.is_set()

    @property
    def age_seconds(self) -> float:
        """How long ago it began."""
        return time.monotonic() - self._started

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; tell whether it has ended."""
        return self._finished.wait(max(0.0, seconds))

    def abandon(self) -> None:
        """See to it that nothing of it becomes visible from now on."""
        with self._lock:
            self._is_abandoned = True

    def stack(self) -> str:
        """Return where its thread stands."""
        frame = None if self.is_finished else sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _permit(self) -> None:
        with self._lock:
            if self._is_abandoned:
                raise AbandonedError

    def run(self) -> None:
        """Do it, in the thread that this is called in."""
        self._thread_id, cpu = threading.get_ident(), time.thread_time()
        try:
            self.size_bytes = self._act(self.job, self._permit)
        except LinnaeusError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the rim: whatever it was, training is told
            self.error = _unforeseen(error, self.job.path)
        finally:
            if self.job.guard is not None:
                self.job.guard.finish()
            # Here, since taking so many objects apart takes a moment that training need not wait.
            self.job = replace(self.job, snapshot=None, share=None)
            self.seconds = self.age_seconds
            self.cpu_seconds = time.thread_time() - cpu
            self._finished.set()


class Worker:
    """A thread that does one task after another.

    It is made once, because starting one makes training wait for it. It is a daemon, because one that hangs
    must not keep the interpreter from ending; whoever gave it a task waits for that, also at the
    interpreter's exit. It ends when its owner is gone.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name="linnaeus", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._tasks.put, None)

    def give(self, task: Task) -> None:
        """Have a task done."""
        self._tasks.put(task)

    def dismiss(self) -> None:
        """End the thread when it has done what it was given."""
        self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        task.run()
        del task  # it holds a whole snapshot


def _unforeseen(error: Exception, path: Path) -> SaveError:
    wrapped = SaveError(path=str(path), problem=f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
