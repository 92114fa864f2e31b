"""A thread in the place of a device's copying stream, for tensors of the CPU: it copies when told to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import torch

from linnaeus.state._staging import Staging


class ThreadLane:
    """Copies in a thread, no sooner than it is allowed to."""

    def __init__(self) -> None:
        self.may_copy = threading.Event()
        self.problem: Exception | None = None
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            moves, done = item
            self.may_copy.wait()
            for target, source in moves:
                target.copy_(source)
            done.set()

    def mark(self) -> None:
        """Nothing is enqueued on a CPU."""

    def copy(self, moves: Sequence[Any], after: None) -> threading.Event:
        done = threading.Event()
        self._work.put((moves, done))
        return done

    def hold(self, done: threading.Event) -> None:
        done.wait()  # what comes next on a CPU is what this thread does next

    def wait(self, done: threading.Event) -> None:
        done.wait()
        if self.problem is not None:
            raise self.problem

    def stop(self) -> None:
        self.may_copy.set()
        self._work.put(None)
        self._thread.join()


def plain_memory(size_bytes: int) -> torch.Tensor:
    """Return memory that no device needs locked."""
    return torch.empty(size_bytes, dtype=torch.uint8)


def staging(lane: ThreadLane) -> Staging:
    """Return a run's staging with one lane."""
    return Staging(lambda _: lane, plain_memory)
