"""Signs of life while some ranks do what may take long, and the noticing that one gives none any more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from linnaeus.distributed._store import Store, Waiting

_LOOKS_PER_SILENCE = 8


@contextlib.contextmanager
def beating(store: Store, key: str, seconds: float) -> Iterator[None]:
    """Change a key every so many seconds, from a thread of its own, for the length of the block.

    Args:
        store: A connection that nobody else uses meanwhile.
        key: What to change.
        seconds: The pause between two beats.
    """
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(seconds):
            number += 1
            try:
                store.set(key, str(number))
            except RuntimeError:  # the store is gone, which everybody notices by themselves
                return

    thread = threading.Thread(target=beat, name="linnaeus-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Watch:
    """Waits for as long as it takes, if those who are waited for give signs of life.

    Args:
        store: Where their signs are.
        waiting: Waits between two looks.
        silence_seconds: How long one may give none.
    """

    def __init__(self, store: Store, waiting: Waiting, silence_seconds: float) -> None:
        self._store, self._waiting, self._silence_seconds = store, waiting, silence_seconds

    def until(self, condition: Callable[[], bool], beats: Callable[[], Mapping[int, str]]) -> list[int]:
        """Wait until something holds, or a rank falls silent.

        Args:
            condition: What is waited for.
            beats: Returns the keys that those change who are waited for at that moment, by rank.

        Returns:
            The ranks that fell silent; none when the condition holds.
        """
        seen: dict[int, tuple[bytes, float]] = {}
        while not self._waiting.until(condition, self._silence_seconds / _LOOKS_PER_SILENCE):
            now = self._waiting.clock()
            signs = {rank: self._sign(key) for rank, key in beats().items()}
            seen = {rank: self._since(seen.get(rank), sign, now) for rank, sign in signs.items()}
            silent = [rank for rank, (_, since) in seen.items() if now - since >= self._silence_seconds]
            if silent:
                return silent
        return []

    def _sign(self, key: str) -> bytes:
        return self._store.get(key) if self._store.check([key]) else b""

    @staticmethod
    def _since(before: tuple[bytes, float] | None, sign: bytes, now: float) -> tuple[bytes, float]:
        return before if before is not None and before[0] == sign else (sign, now)
