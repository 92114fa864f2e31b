"""Agreement of thousands of ranks, simulated: every rank's own code, on a store that counts.

Ranks run as threads, highest first, each up to where it waits for the verdict, so that whoever asks for
messages finds them: what is counted does not depend on how fast anything is.
"""

from __future__ import annotations

import threading
import time

from linnaeus.distributed import Group, Roles
from linnaeus.distributed._store import Waiting

_STACK_BYTES = 256 << 10


class CountingStore:
    """A rank's connection to a store in memory."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values
        self.num_operations = 0
        self.num_bytes = 0

    def _counted(self, value: bytes) -> bytes:
        self.num_operations += 1
        self.num_bytes += len(value)
        return value

    def set(self, key: str, value: str, /) -> None:
        """Set a key."""
        self._values[key] = self._counted(value.encode())

    def get(self, key: str, /) -> bytes:
        """Return a value."""
        return self._counted(self._values[key])

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return several values."""
        return [*map(self._values.__getitem__, keys), self._counted(b"")][:-1]

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all are there."""
        self._counted(b"")
        return all(key in self._values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set a key that is not there."""
        return self._counted(self._values.setdefault(key, desired.encode()))

    def delete_key(self, key: str, /) -> bool:
        """Remove a key."""
        self._counted(b"")
        return self._values.pop(key, None) is not None


def count_operations(world_size: int) -> list[int]:
    """Return for each rank how many store operations one agreement takes it."""
    values: dict[str, bytes] = {}
    stores = [CountingStore(values) for _ in range(world_size)]
    decided = threading.Event()

    def run(rank: int, waits: threading.Event) -> None:
        def sleep(_: float) -> None:
            waits.set()
            decided.wait()

        group = Group(Roles(rank, world_size), lambda: stores[rank], waiting=Waiting(1, sleep=sleep))
        group.agree("a save", lambda: 1, merge=sum, conclude=lambda total: total)
        waits.set()

    before = threading.stack_size(_STACK_BYTES)
    threads = []
    try:
        for rank in reversed(range(world_size)):
            waits = threading.Event()
            threads.append(threading.Thread(target=run, args=(rank, waits)))
            threads[-1].start()
            waits.wait()
    finally:
        threading.stack_size(before)
    decided.set()
    for thread in threads:
        thread.join()
    return [store.num_operations for store in stores]


def main() -> None:
    """Show operations per rank for jobs of many sizes."""
    for world_size in (1 << power for power in range(1, 13)):
        start = time.perf_counter()
        counted = count_operations(world_size)
        seconds = time.perf_counter() - start
        print(world_size, counted[0], max(counted), sum(counted) / world_size, round(seconds, 2))  # noqa: T201


if __name__ == "__main__":
    main()
