"""A file that is elsewhere, of which ranges of bytes come when they are asked for."""

from __future__ import annotations

import io

from linnaeus.pth._legacy import ReadAt

# Holds the end of nearly every file in one piece: directory and description of some thousand tensors.
_END_BYTES = 256 << 10
# The pickle of a published model fits; larger ones take a second read.
PIECE_BYTES = 64 << 10


class Ranges(io.RawIOBase):
    """A file whose bytes come in ranges; what came is kept."""

    def __init__(self, size_bytes: int, read_at: ReadAt) -> None:
        self._size_bytes = size_bytes
        self._read_at = read_at
        self._position = 0
        self._kept: list[tuple[int, bytes]] = []

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a place before the file's beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size_bytes if size is None or size < 0 else self._position + size
        data = self._range(self._position, min(stop, self._size_bytes))
        self._position += len(data)
        return data

    def _range(self, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""
        for offset, data in self._kept:
            if offset <= start and stop <= offset + len(data):
                return data[start - offset : stop - offset]
        # At the end one large piece, elsewhere what is asked for and a little beyond.
        first = max(0, min(start, self._size_bytes - _END_BYTES))
        if stop < self._size_bytes - _END_BYTES:
            first, last = start, min(self._size_bytes, max(stop, start + PIECE_BYTES))
        else:
            last = self._size_bytes
        data = self._read_at(first, last - first)
        if len(data) != last - first:
            raise EOFError("it is shorter than it was said to be")
        self._kept.append((first, data))
        return data[start - first : stop - first]
