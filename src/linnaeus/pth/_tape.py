"""Memory that is written part after part: where it is, or, when it may change meanwhile, read as it was.

What may change is read once, from its beginning to its end, into one buffer that all reading shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from zlib_ng import zlib_ng

from linnaeus.pth._memory import memory_of, region

if TYPE_CHECKING:
    from linnaeus.pth._write import Reader


Room = Callable[[int], torch.Tensor]


class Memory(Protocol):
    """Bytes of a storage."""

    def part(self, start: int, end: int) -> torch.Tensor:
        """Return bytes `start` to before `end`, good until a part is asked for again; none twice."""

    def whole(self) -> torch.Tensor:
        """Return all bytes; instead of any part."""


class Still:
    """Bytes that nobody changes.

    Args:
        source: A tensor of them, contiguous.
    """

    def __init__(self, source: torch.Tensor) -> None:
        self._flat = source.detach().reshape(-1).view(torch.uint8)

    def part(self, start: int, end: int) -> torch.Tensor:
        """Return bytes where they are."""
        return self._flat[start:end]

    def whole(self) -> torch.Tensor:
        """Return all, where they are."""
        return self._flat


class Tapes:
    """What one save reads that may change meanwhile.

    Args:
        reader: How to read a storage.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._tapes: dict[int, Tape] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def of(self, storage: torch.UntypedStorage) -> Tape:
        """Return how to read a storage."""
        if storage._cdata not in self._tapes:
            self._tapes[storage._cdata] = Tape(storage, self._reader(storage), self.room)
        return self._tapes[storage._cdata]

    def room(self, size_bytes: int) -> torch.Tensor:
        """Return memory for a part, that of the part before."""
        if self._buffer.numel() < size_bytes:
            self._buffer = torch.empty(size_bytes, dtype=torch.uint8)
        # A storage of its own, or all of the buffer would be taken for the tensor's.
        return region(self._buffer.untyped_storage(), 0, size_bytes)

    def finish(self) -> dict[int, int]:
        """Read whatever was not asked for, and return the CRC-32 of each storage by its `_cdata`."""
        return {key: tape.finish() for key, tape in self._tapes.items()}


class Tape:
    """One storage, and how far it was read.

    Args:
        storage: Whose bytes they are.
        pieces: The bytes.
        room: Returns memory for so many of them.
    """

    def __init__(self, storage: torch.UntypedStorage, pieces: Iterator[memoryview], room: Room) -> None:
        self._storage = storage  # kept, since a number is only unique while its object lives
        self._pieces, self._rest, self._room = pieces, memoryview(b""), room
        self._crc32 = self._position = 0
        self._whole: torch.Tensor | None = None

    def part(self, start: int, end: int) -> torch.Tensor:
        """Return bytes that were not passed yet."""
        return self._read(start, self._room(end - start))

    def whole(self) -> torch.Tensor:
        """Return all bytes, in memory of their own."""
        if self._whole is None:
            self._whole = self._read(0, torch.empty(self._storage.nbytes(), dtype=torch.uint8))
        return self._whole

    def _read(self, start: int, target: torch.Tensor) -> torch.Tensor:
        if start < self._position:
            raise ValueError(f"byte {start} was passed, at {self._position}")
        self._pass(start - self._position, None)
        self._pass(target.numel(), memory_of(target.untyped_storage()))
        if self._position == self._storage.nbytes():
            self.finish()  # at once, so that nobody waits for it
        return target

    def _pass(self, size_bytes: int, target: memoryview | None) -> None:
        done = 0
        while done < size_bytes:
            if not self._rest:
                self._rest = next(self._pieces)
                self._crc32 = zlib_ng.crc32(self._rest, self._crc32)
            part, self._rest = self._rest[: size_bytes - done], self._rest[size_bytes - done :]
            if target is not None:
                target[done : done + len(part)] = part
            done += len(part)
        self._position += done

    def finish(self) -> int:
        """Read on to the end; return the CRC-32 of all."""
        self._rest = memoryview(b"")
        for piece in self._pieces:
            self._crc32 = zlib_ng.crc32(piece, self._crc32)
        return self._crc32
