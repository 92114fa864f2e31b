"""A tensor in a file: what it is and where its bytes are, read only when asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._globals import item_bytes

if TYPE_CHECKING:
    import torch

_GAP_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor of a file, its bytes in this machine's order.

    Attributes:
        path: The file.
        dtype: As torch names it, for example "float32".
        shape: Its shape.
        stride: In elements; a file may hold a transposed tensor.
        start: Where its first element is, in bytes from the file's beginning; None where it can be had only
            by loading the whole file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int | None

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow one another, the last dimension fastest."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True

    @property
    def num_bytes(self) -> int:
        """Bytes from its first element to its last."""
        if 0 in self.shape:
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return (last + 1) * item_bytes(self.dtype)

    def read(self) -> torch.Tensor:
        """Return it, read into memory of its own; on the meta device where it can't be read.

        Raises:
            CheckpointInvalidError: The file became shorter, or can't be read.
        """
        import torch

        from linnaeus.pth._build import DTYPES

        dtype = DTYPES[self.dtype]
        if self.start is None:
            return torch.empty(self.shape, dtype=dtype, device="meta")
        flat = torch.empty(self.num_bytes // item_bytes(self.dtype), dtype=dtype, device="cpu")
        self._read_into(flat)
        return flat.as_strided(self.shape, self.stride)

    def read_into(self, target: torch.Tensor) -> bool:
        """Read it straight into a tensor of its shape, where both lie alike in memory.

        Returns:
            Whether they do; else nothing was done.

        Raises:
            CheckpointInvalidError: The file became shorter, or can't be read.
        """
        import torch

        alike = (
            type(target) in (torch.Tensor, torch.nn.Parameter)  # others may keep their bytes elsewhere
            and target.layout is torch.strided
            and target.device.type == "cpu"
            and target.is_contiguous()
            and self.is_contiguous
            and self.start is not None
            and str(target.dtype) == f"torch.{self.dtype}"
            and tuple(target.shape) == self.shape
        )
        if alike:
            self._read_into(target)
            torch.autograd.graph.increment_version(target)  # as an assignment in place does
        return alike

    def _read_into(self, target: torch.Tensor) -> None:
        from linnaeus.pth._memory import memory_of

        if self.start is None or not self.num_bytes:
            return
        first = target.storage_offset() * target.element_size()
        memory = memory_of(target.untyped_storage())[first : first + self.num_bytes]
        try:
            _read_all(self.path, memory, self.start)
        except OSError as error:
            raise not_readable(self.path, error) from error


def prefetch(tensors: Iterable[StoredTensor]) -> None:
    """Tell the system that tensors will be read soon; it begins on its own, and nothing waits for it.

    Neighbours in a file are announced together: each call costs as much as reading a small tensor.
    """
    ranges: dict[Path, list[list[int]]] = {}
    for stored in tensors:
        if stored.start is not None and stored.num_bytes:
            found = ranges.setdefault(stored.path, [])
            if found and 0 <= stored.start - found[-1][1] < _GAP_BYTES:
                found[-1][1] = stored.start + stored.num_bytes
            else:
                found.append([stored.start, stored.start + stored.num_bytes])
    for path, places in ranges.items():
        with contextlib.suppress(OSError):  # reading will tell
            _announce(path, places)


def _announce(path: Path, places: list[list[int]]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for first, last in places:
            os.posix_fadvise(descriptor, first, last - first, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _read_all(path: Path, memory: memoryview, start: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while memory:
            count = os.preadv(descriptor, [memory], start)
            if not count:
                raise _shorter(path)
            memory, start = memory[count:], start + count
    finally:
        os.close(descriptor)


def _shorter(path: Path) -> CheckpointInvalidError:
    return CorruptCheckpointError(path=str(path), problem="the file became shorter while it was read")
