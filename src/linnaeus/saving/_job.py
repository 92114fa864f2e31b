"""One checkpoint to be made, and the thread that makes it while training goes on."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import LinnaeusError, SaveError

if TYPE_CHECKING:
    from linnaeus.state import Snapshot


@dataclass(frozen=True, slots=True)
class Job:
    """What to save, and where.

    Attributes:
        path: The checkpoint's name.
        step: Optimizer steps done, for messages.
        snapshot: The content.
        about: What the file says of itself.
        protected: Names of files that retention must keep, with the reason.
    """

    path: Path
    step: int
    snapshot: Snapshot
    about: Mapping[str, Any]
    protected: Mapping[str, str]


class AbandonedError(Exception):
    """The task was given up; whatever it still does must not be seen."""


class Task:
    """A job under way in a thread of its own.

    The thread is a daemon, because one that hangs must not keep the interpreter from ending; whoever started
    it waits for it, also at the interpreter's exit.

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
        self._thread = threading.Thread(target=self._run, name=f"saving {job.path.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self._finished.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

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
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _permit(self) -> None:
        with self._lock:
            if self._is_abandoned:
                raise AbandonedError

    def _run(self) -> None:
        cpu = time.thread_time()
        try:
            self.size_bytes = self._act(self.job, self._permit)
        except LinnaeusError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the rim: whatever it was, training is told
            self.error = _unforeseen(error, self.job.path)
        finally:
            if self.job.snapshot.guard is not None:
                self.job.snapshot.guard.finish()
            self.seconds = self.age_seconds
            self.cpu_seconds = time.thread_time() - cpu
            self._finished.set()


def _unforeseen(error: Exception, path: Path) -> SaveError:
    wrapped = SaveError(path=str(path), problem=f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
