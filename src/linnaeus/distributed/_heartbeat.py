"""A sign of life while one rank does what may take long and all others wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from linnaeus.distributed._store import Store


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
