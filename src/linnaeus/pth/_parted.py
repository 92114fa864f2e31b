"""A tensor that is kept in parts, in the files of a directory: read as a whole, or any box of it.

Of the files only what lies in the box is read, and what lies there in one run is read straight into the
memory where it belongs; elsewhere through a buffer of bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.pth._dcp_items import PlacedTensor, check_part, has_sums, stored_part
from linnaeus.pth._dcp_metadata import Entry, Part
from linnaeus.pth._globals import item_bytes
from linnaeus.pth._stored import StoredTensor

if TYPE_CHECKING:
    import torch

_BUFFER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class PartedTensor(StoredTensor):
    """One tensor of a directory, or a box of it; its elements count in their usual order.

    Attributes:
        path: The directory.
        entry: Its parts.
        first: Where the box begins.
    """

    path: Path = field(kw_only=True)
    entry: Entry = field(kw_only=True)
    first: tuple[int, ...] = field(kw_only=True)
    _stored: dict[tuple[int, ...], PlacedTensor] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(cls, directory: Path, entry: Entry) -> PartedTensor:
        """Return the tensor of an entry; nothing is read."""
        stride, first = contiguous_stride(entry.shape), (0,) * len(entry.shape)
        return cls(None, entry.dtype, entry.shape, stride, 0, path=directory, entry=entry, first=first)

    @property
    def is_readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    @property
    def place(self) -> tuple[str, int]:
        """About where it stands: in the first of its files."""
        found = [part.place for part in self.entry.parts[:1]]
        return str(self.path / found[0].file if found else self.path), found[0].offset if found else 0

    def part(self, box: Sequence[tuple[int, int]]) -> PartedTensor:
        """Return a part of it, as `StoredTensor.part`."""
        shape = tuple(length for _, length in box)
        first = tuple(mine + start for mine, (start, _) in zip(self.first, box, strict=True))
        return replace(self, shape=shape, stride=contiguous_stride(shape), first=first)

    def read(self) -> torch.Tensor:
        """Return it, read into memory of its own.

        Raises:
            CheckpointInvalidError: A file is damaged, or can't be read.
        """
        import torch

        from linnaeus.pth._build import DTYPES

        made = torch.empty(self.shape, dtype=DTYPES[self.dtype], device="cpu")
        self.read_box(self.first, made)
        return made

    def read_into(self, target: torch.Tensor) -> bool:
        """Read it straight into a tensor, as `StoredTensor.read_into`."""
        import torch

        fits = (
            type(target) in (torch.Tensor, torch.nn.Parameter)
            and target.layout is torch.strided
            and target.device.type == "cpu"
            and str(target.dtype) == f"torch.{self.dtype}"
            and tuple(target.shape) == self.shape
        )
        if fits:
            self.read_box(self.first, target.detach())
            torch.autograd.graph.increment_version(target)
        return fits

    def read_box(self, starts: Sequence[int], target: torch.Tensor) -> None:
        """Read the box of the whole tensor that begins at `starts` and has the target's shape.

        Args:
            starts: Where it begins.
            target: Of the tensor's dtype, on the CPU, of any strides.

        Raises:
            CheckpointInvalidError: A file is damaged, or can't be read.
        """
        if not target.numel():
            return
        for part in self.entry.parts:
            common = _common(starts, tuple(target.shape), part)
            if common is None:
                continue
            in_target = tuple(
                slice(low - at, high - at) for (low, high), at in zip(common, starts, strict=True)
            )
            in_part = [low - at for (low, _), at in zip(common, part.offsets, strict=True)]
            _read_region(self._part(part), in_part, target[in_target])

    def files_of(self, starts: Sequence[int], shape: Sequence[int]) -> set[str]:
        """Return in which files a box of it is kept."""
        return {one.place.file for one in self.entry.parts if _common(starts, shape, one) is not None}

    def check(self, absent: frozenset[str] = frozenset()) -> None:
        """Look at the archive of every part, but for those in files that are not here.

        Raises:
            CheckpointInvalidError: One is damaged, or not what the metadata says.
        """
        for part in self.entry.parts:
            if part.place.file not in absent:
                self._part(part)

    def has_sums(self) -> bool:
        """Tell whether torch recorded a CRC-32 of its bytes."""
        return any(has_sums(self.path, part) for part in self.entry.parts[:1])

    def check_sums(self) -> None:
        """Compare every part with the CRC-32s that torch recorded.

        Raises:
            CheckpointInvalidError: One is damaged.
        """
        for part in self.entry.parts:
            check_part(self.path, self.entry, part)

    def _part(self, part: Part) -> PlacedTensor:
        found = self._stored.get(part.offsets)
        if found is None:
            found = self._stored[part.offsets] = stored_part(self.path, self.entry, part)
        return found


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor whose last dimension is the fastest, as torch tells them."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def blocks(
    shape: Sequence[int], item_size: int, most_bytes: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (start, shape) of the boxes of a tensor, in its order, each one run of at most so many bytes."""
    row = math.prod(shape[1:]) * item_size
    if not shape or row * shape[0] <= most_bytes:
        if math.prod(shape):
            yield (0,) * len(shape), tuple(shape)
    elif row > most_bytes:
        for index in range(shape[0]):
            for start, size in blocks(shape[1:], item_size, most_bytes):
                yield (index, *start), (1, *size)
    else:
        count = most_bytes // row
        for first in range(0, shape[0], count):
            yield (first, *(0,) * (len(shape) - 1)), (min(count, shape[0] - first), *shape[1:])


def _common(starts: Sequence[int], shape: Sequence[int], part: Part) -> list[tuple[int, int]] | None:
    """Return what a box and a part have in common, as (first, end) for each dimension; None for nothing."""
    common = []
    for start, length, offset, size in zip(starts, shape, part.offsets, part.shape, strict=True):
        low, high = max(start, offset), min(start + length, offset + size)
        if low >= high:
            return None
        common.append((low, high))
    return common


def _read_region(stored: PlacedTensor, starts: Sequence[int], target: torch.Tensor) -> None:
    """Read a box of a tensor that lies in one file."""
    import torch

    width = item_bytes(stored.dtype)
    steps = stored.stride
    first = sum(start * step for start, step in zip(starts, steps, strict=True))
    reach = 1 + sum((length - 1) * step for length, step in zip(target.shape, steps, strict=True))
    place = replace(stored, shape=tuple(target.shape), start=(stored.start or 0) + first * width)
    if place.read_into(target):  # one run on both sides
        return
    if reach * width <= _BUFFER_BYTES or target.numel() == 1:
        target.copy_(place.read())
        return
    # In halves of the dimension that spreads the most, until what lies between fits the buffer too.
    spread = [(length - 1) * step for length, step in zip(target.shape, steps, strict=True)]
    dim = spread.index(max(spread))
    half = target.shape[dim] // 2
    later = [start + half * (number == dim) for number, start in enumerate(starts)]
    with torch.no_grad():
        _read_region(stored, starts, target.narrow(dim, 0, half))
        _read_region(stored, later, target.narrow(dim, half, target.shape[dim] - half))
