"""Which rank writes which bytes of which storage, and the checksums that are made on the way."""

from __future__ import annotations

import base64
import math
import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_ubyte
from typing import TYPE_CHECKING, Any, NamedTuple

from zlib_ng import zlib_ng

from linnaeus.pth._memory import region

if TYPE_CHECKING:
    import torch

    from linnaeus.pth._emit import Storage

# A rank's part of what all hold alike ends at a multiple of this, so that no two write the same page.
_BLOCK_BYTES = 4096
_LITTLE_BYTES = 1 << 20
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_SUM = struct.Struct("<IQQI")


class Piece(NamedTuple):
    """Bytes of one storage, from byte `start` on; `source` holds them, contiguous, on any device."""

    start: int
    source: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.source.numel() * self.source.element_size()


class Sum(NamedTuple):
    """The CRC-32 of a part of storage number `key`."""

    key: int
    start: int
    size_bytes: int
    crc32: int


MakePieces = Callable[[], Sequence[Piece]]


class Shares:
    """What one rank has of a state that several hold together.

    A storage is split (each rank has pieces of it), held alike by all ranks, or rank 0's alone.
    """

    def __init__(self) -> None:
        self._split: dict[int, tuple[torch.UntypedStorage, MakePieces]] = {}
        self._alike: dict[int, torch.UntypedStorage] = {}
        self._regions: dict[int, _Kept] = {}

    def split(self, shape: Sequence[int], dtype: torch.dtype, pieces: MakePieces) -> torch.Tensor:
        """Return the stand-in for a tensor of which each rank has pieces.

        Args:
            shape: Of the whole tensor.
            dtype: Of its elements.
            pieces: Returns this rank's pieces when they are to be written; on every rank in the same order,
                so they may be made by collectives.
        """
        made = stand_in(shape, dtype)
        storage = made.untyped_storage()
        self._split[storage._cdata] = (storage, pieces)
        return made

    def alike(self, tensor: torch.Tensor) -> None:
        """Note that every rank holds this tensor with the same content, so that the work can be divided.

        To be called in the same order on every rank, and before any piece is asked for.
        """
        storage = tensor.untyped_storage()
        self._alike[storage._cdata] = storage  # kept, since a number is only unique while its object lives

    def kind(self, storage: torch.UntypedStorage) -> str:
        """Return how a storage is shared."""
        if storage._cdata in self._split:
            return "split"
        return "alike" if storage._cdata in self._alike else "first"

    def pieces(self, storages: Sequence[Storage], rank: int, world_size: int) -> Iterator[tuple[int, Piece]]:
        """Yield what a rank writes: the storage's key, and the piece."""
        for storage in storages:
            split = self._split.get(storage.source._cdata)
            found = split[1]() if split else self.region_of(storage.source, rank, world_size)
            yield from ((storage.key, piece) for piece in found if piece.size_bytes)

    def region_of(self, storage: torch.UntypedStorage, rank: int, world_size: int) -> Sequence[Piece]:
        """Return what a rank writes of a storage that is not split: none or one piece, always the same."""
        if storage._cdata not in self._alike:
            self._regions.setdefault(storage._cdata, _all_of(storage) if rank == 0 else _Kept(storage, []))
        elif storage._cdata not in self._regions:
            kept = [*self._alike.values()]
            spans = _spans([one.nbytes() for one in kept], rank, world_size)
            for one, (start, end) in zip(kept, spans, strict=True):
                self._regions[one._cdata] = _Kept(one, [Piece(start, region(one, start, end))])
        return self._regions[storage._cdata].pieces


class _Kept(NamedTuple):
    """Pieces of a storage, which is kept, since a number is only unique while its object lives."""

    storage: torch.UntypedStorage
    pieces: Sequence[Piece]


def _all_of(storage: torch.UntypedStorage) -> _Kept:
    return _Kept(storage, [Piece(0, region(storage, 0, storage.nbytes()))])


def _spans(sizes: list[int], rank: int, world_size: int) -> list[tuple[int, int]]:
    """Return a rank's parts of what all hold alike: even ones, unless it is too little to be divided.

    A part is a piece to write, and the file of another rank to read.
    """
    if sum(sizes) > _LITTLE_BYTES:
        return even_ranges(sizes, rank, world_size)
    return [(0, 0 if rank else size) for size in sizes]


def even_ranges(sizes: Sequence[int], rank: int, world_size: int) -> list[tuple[int, int]]:
    """Return for each storage the (start, end) of a rank's part, all parts together being equally large."""
    total = sum(sizes)
    first, last = (
        min(total, math.ceil(total * bound / world_size / _BLOCK_BYTES) * _BLOCK_BYTES)
        for bound in (rank, rank + 1)
    )
    ranges, position = [], 0
    for size in sizes:
        start, end = max(first - position, 0), min(last - position, size)
        ranges.append((start, end) if start < end else (0, 0))
        position += size
    return ranges


def stand_in(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor for layouts only: of the right size, with addresses but no memory behind them.

    Its elements read as zeros and must not be written.
    """
    import torch

    size_bytes = math.prod(shape) * dtype.itemsize
    if not size_bytes:
        return torch.empty(tuple(shape), dtype=dtype)
    # Pages that are never written get no memory, and without a reserve are not counted as if they might.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    pages = mmap.mmap(-1, size_bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    flat = torch.frombuffer((c_ubyte * size_bytes).from_buffer(pages), dtype=torch.uint8)
    return flat.view(dtype).view(tuple(shape))


def joined(sums: Iterable[Sum]) -> Iterator[Sum]:
    """Join neighbours, whose checksums are combined without looking at the bytes again."""
    before: Sum | None = None
    for one in sorted(sums):
        if before and before.key == one.key and before.start + before.size_bytes == one.start:
            crc32 = zlib_ng.crc32_combine(before.crc32, one.crc32, one.size_bytes)
            before = Sum(one.key, before.start, before.size_bytes + one.size_bytes, crc32)
            continue
        if before:
            yield before
        before = one
    if before:
        yield before


def packed(sums: Iterable[Sum]) -> str:
    """Return checksums as a text, neighbours joined."""
    return base64.b85encode(b"".join(_SUM.pack(*one) for one in joined(sums))).decode()


def unpacked(text: Any) -> list[Sum]:
    """Return the checksums that were packed."""
    return [Sum(*fields) for fields in _SUM.iter_unpack(base64.b85decode(text))]
