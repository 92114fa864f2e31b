"""The key-value store that all ranks share, as this room sees it, and the waiting for its keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

_FIRST_PAUSE_SECONDS = 0.0002
# So that what comes is seen after a fraction of the time that was waited for it.
_GROWTH = 1.2
_LONGEST_PAUSE_SECONDS = 0.02
# A store of torch's answers some hundred thousand questions a second; all ranks together ask fewer.
_QUESTIONS_PER_SECOND = 20_000


class Store(Protocol):
    """What is needed of a `torch.distributed.Store`."""

    def set(self, key: str, value: str, /) -> None:
        """Set a key."""

    def get(self, key: str, /) -> bytes:
        """Return the value of a key that is there."""

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return the values of keys that are there."""

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all of these are there."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set a key that holds `expected` ("": that is not there); return what it holds now."""

    def delete_key(self, key: str, /) -> bool:
        """Remove a key."""


class Waiting:
    """Waits for keys by looking again and again, more and more rarely.

    torch's own waits can't be interrupted by a signal, end for one key only, and complain on standard error.

    Args:
        world_size: How many wait at the same time.
        sleep: Waits between two looks.
        clock: Returns seconds, monotonic.
    """

    def __init__(
        self,
        world_size: int,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest = max(_LONGEST_PAUSE_SECONDS, world_size / _QUESTIONS_PER_SECOND)
        self._sleep = sleep
        self.clock = clock

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds; tell whether it did within so many seconds."""
        end, pause = self.clock() + seconds, max(_FIRST_PAUSE_SECONDS, self._longest / 100)
        while not condition():
            if self.clock() >= end:
                return False
            self._sleep(pause)
            pause = min(pause * _GROWTH, self._longest)
        return True


def absent(store: Store, keys: Sequence[str]) -> list[str]:
    """Return the keys that are not there, asking about halves so that few missing ones cost few questions."""
    if not keys or store.check(list(keys)):
        return []
    if len(keys) == 1:
        return list(keys)
    middle = len(keys) // 2
    return absent(store, keys[:middle]) + absent(store, keys[middle:])
