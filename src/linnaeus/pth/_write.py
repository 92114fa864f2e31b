"""Bytes of tensors straight from their memory to their place in a file, with a checksum on the way.

No copy of the state is made: large storages are written from where they are, piece by piece, each piece
while it is still in the processor's cache from its checksum; small neighbours are gathered into pieces
first. The file gets its room first, so that a full disk shows before anything is written.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from zlib_ng import zlib_ng

from linnaeus.files import WriteBack, reserve
from linnaeus.pth._emit import Storage
from linnaeus.pth._layout import Entry, directory
from linnaeus.pth._memory import memory_of

# Large enough that a system call is nothing, small enough to stay in the second-level cache.
PIECE_BYTES = 1 << 20
# What is smaller is copied next to its neighbours and written with them.
_SMALL_BYTES = 64 << 10

Content = bytes | Storage
# Yields a storage's bytes in order; a piece may be read until the next one is asked for.
Reader = Callable[[torch.UntypedStorage], Iterator[memoryview]]


def write_archive(
    descriptor: int,
    entries: Sequence[Entry],
    contents: Sequence[Content],
    size_bytes: int,
    reader: Reader | None = None,
    *,
    durable: bool = True,
) -> list[int]:
    """Write a whole archive.

    Args:
        descriptor: An open file; what it holds is overwritten and what is longer is cut off.
        entries: The places, as `place` returns them; the last is that of the serialization id, if any.
        contents: What goes there, in the same order.
        size_bytes: Of the whole archive.
        reader: How to read storages that somebody else may change meanwhile.
        durable: An fsync will follow, so let the disk begin.

    Returns:
        The CRC-32 of each content.

    Raises:
        OSError: The system refused, for example because the disk is full.
    """
    reserve(descriptor, size_bytes)
    writer = _Writer(descriptor, reader, WriteBack(descriptor) if durable else None)
    crc32s = [writer.record(entry, content) for entry, content in zip(entries, contents, strict=True)]
    writer.gather(entries[-1].end, size_bytes, directory(entries, crc32s))
    writer.flush()
    return crc32s


class _Writer:
    """Gathers small neighbours into one system call; large payloads go by themselves."""

    def __init__(self, descriptor: int, reader: Reader | None, back: WriteBack | None) -> None:
        self._descriptor = descriptor
        self._reader = reader
        self._back = back
        self._start = 0
        self._parts: list[Any] = []

    def record(self, entry: Entry, content: Content) -> int:
        """Write one record and return its CRC-32."""
        if isinstance(content, bytes):
            small: Any = content
        elif content.source.nbytes() != content.size_bytes:  # beware of reading beyond its memory
            raise OSError(errno.EBUSY, "the memory of a tensor was resized while it was saved")
        elif content.size_bytes <= _SMALL_BYTES and self._reader is not None:
            small = b"".join(map(bytes, self._reader(content.source)))
        elif content.size_bytes <= _SMALL_BYTES and content.on_cpu:
            small = ctypes.string_at(content.source.data_ptr(), content.size_bytes)
        else:
            self.gather(entry.header_offset, entry.offset, entry.header)
            crc32 = self._large(entry, content.source)
            self.gather(entry.offset + entry.size_bytes, entry.end, entry.descriptor(crc32))
            return crc32
        crc32 = zlib_ng.crc32(small)
        self.gather(entry.header_offset, entry.end, entry.header, small, entry.descriptor(crc32))
        return crc32

    def _large(self, entry: Entry, source: torch.UntypedStorage) -> int:
        self.flush()
        crc32, position = 0, entry.offset
        for piece in (self._reader or _pieces)(source):
            crc32 = zlib_ng.crc32(piece, crc32)
            write_all(self._descriptor, piece, position)
            if self._back is not None:
                self._back.wrote(position, len(piece))
            position += len(piece)
        return crc32

    def gather(self, offset: int, end: int, *parts: Any) -> None:
        """Add bytes that belong at `offset` up to `end`; `offset` must be where the last ones ended."""
        if not self._parts:
            self._start = offset
        self._parts += parts
        if end - self._start >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._parts:
            write_all(self._descriptor, memoryview(b"".join(self._parts)), self._start)
            self._parts = []


def write_all(descriptor: int, data: memoryview, position: int) -> None:
    """Write all bytes at a position."""
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def _pieces(source: torch.UntypedStorage) -> Iterator[memoryview]:
    if source.device.type == "cpu":
        memory = memory_of(source)
        for start in range(0, len(memory), PIECE_BYTES):
            yield memory[start : start + PIECE_BYTES]
        return
    # From a device through one buffer, so that host memory stays bounded whatever the size.
    flat = torch.empty(0, dtype=torch.uint8, device=source.device).set_(source)
    buffer = torch.empty(PIECE_BYTES * 16, dtype=torch.uint8, pin_memory=source.device.type == "cuda")
    for start in range(0, flat.numel(), buffer.numel()):
        part = flat[start : start + buffer.numel()]
        buffer[: part.numel()].copy_(part)
        yield memory_of(buffer.untyped_storage())[: part.numel()]


def serialization_id(pickle: bytes, sizes: Sequence[int]) -> bytes:
    """Return forty digits that differ for files of other content.

    Torch has such a record to tell files apart.
    """
    digest = hashlib.sha256(pickle + repr(sizes).encode()).digest()
    return str(int.from_bytes(digest[:16], "big")).zfill(40)[:40].encode()
