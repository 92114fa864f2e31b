"""CRC-32s of a file's records, at the speed of reading, on all cores.

Large records are split into spans whose checksums are combined; small neighbours are read together. Reading
goes through a small buffer for each thread, since fresh memory would cost more than the reading. Both
reading and summing release the interpreter lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zlib_ng import zlib_ng

_BUFFER_BYTES = 1 << 20
_TASK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """A part of record number `index`, at `offset` in the file."""

    index: int
    offset: int
    size_bytes: int


def crc32s(path: Path, places: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return the CRC-32 of each (offset, size) of a file; None where the file ended before.

    Raises:
        OSError: The file can't be read.
    """
    sums: list[int | None] = [0] * len(places)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(lambda spans: _sum(descriptor, spans), _tasks(places)):
                for span, crc32 in found:
                    sums[span.index] = _combined(sums[span.index], crc32, span.size_bytes)
    finally:
        os.close(descriptor)
    return sums


def _combined(before: int | None, crc32: int | None, size_bytes: int) -> int | None:
    if before is None or crc32 is None:
        return None
    return zlib_ng.crc32_combine(before, crc32, size_bytes)


def _tasks(places: Sequence[tuple[int, int]]) -> Iterator[list[Span]]:
    """Cut the records into tasks of about equal size, in the order of the file."""
    task: list[Span] = []
    room = _TASK_BYTES
    for index, (offset, size_bytes) in enumerate(places):
        end = offset + size_bytes
        while offset < end:
            size = min(end - offset, room)
            task.append(Span(index, offset, size))
            offset, room = offset + size, room - size
            if not room:
                yield task
                task, room = [], _TASK_BYTES
    if task:
        yield task


def _sum(descriptor: int, spans: list[Span]) -> list[tuple[Span, int | None]]:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    task_end = spans[-1].offset + spans[-1].size_bytes
    start = end = 0  # what part of the file the buffer holds
    found: list[tuple[Span, int | None]] = []
    for span in spans:
        crc32, position, left = 0, span.offset, span.size_bytes
        while left:
            if not start <= position < end:
                window = buffer[: task_end - position]
                start, end = position, position + os.preadv(descriptor, [window], position)
            count = min(left, end - position)
            if count <= 0:
                break
            crc32 = zlib_ng.crc32(buffer[position - start : position - start + count], crc32)
            position, left = position + count, left - count
        found.append((span, None if left else crc32))
    return found
