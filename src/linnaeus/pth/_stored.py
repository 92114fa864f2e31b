"""A tensor in a file: what it is and where its bytes are, read only when asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth._archive import not_readable, open_file
from linnaeus.pth._directory import Listed, located
from linnaeus.pth._globals import item_bytes

if TYPE_CHECKING:
    import torch


class StoredFile:
    """A file whose tensors are still in it, open for as long as one of them is held.

    So what is read later is of the file that was looked into, though another was renamed over it since; one
    that was written to in place is an error.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CheckpointInvalidError: It is none, or the system won't let it be read.
        """
        self.path = path
        try:
            self._descriptor = open_file(path)
        except OSError as error:
            raise not_readable(path, error) from error
        weakref.finalize(self, os.close, self._descriptor)
        self._state = _state(os.fstat(self._descriptor))

    def require_in_place(self) -> None:
        """Check that the file is still what its path leads to: between the two looks another may have come.

        Raises:
            CorruptCheckpointError: It is another one, or was written to.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise not_readable(self.path, error) from error
        self._require_same(found)

    def read_into(self, memory: memoryview, start: int, record: Listed | None) -> None:
        """Fill memory with the bytes from `start` on, counted from the record's first, or from the file's.

        Raises:
            CheckpointInvalidError: The file was changed, or can't be read.
        """
        try:
            self._require_same(os.fstat(self._descriptor))
            if record is not None:
                start += located(self.path, self._descriptor, record).offset
            while memory:
                count = os.preadv(self._descriptor, [memory], start)
                if not count:
                    raise _shorter(self.path)
                memory, start = memory[count:], start + count
        except OSError as error:
            raise not_readable(self.path, error) from error

    def _require_same(self, found: os.stat_result) -> None:
        if found.st_size < self._state[2]:
            raise _shorter(self.path)
        if _state(found) != self._state:
            raise CorruptCheckpointError(
                path=str(self.path), problem="the file was changed or replaced after it was looked into"
            )


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor of a file, its bytes in this machine's order.

    Attributes:
        file: The file; None where only its header could be had.
        dtype: As torch names it, for example "float32".
        shape: Its shape.
        stride: In elements; a file may hold a transposed tensor.
        start: Where its first element is, in bytes from the beginning of the record or else of the file; None
            where it can be had only by loading the whole file.
        record: The record that it is in, where its place is not known yet.
    """

    file: StoredFile | None
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int | None
    record: Listed | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Its file, and about where it stands there: to read several in the order of the disk."""
        first = self.record.header if self.record else 0
        return ("" if self.file is None else str(self.file.path)), first + (self.start or 0)

    @property
    def is_readable(self) -> bool:
        """Whether it can be read from where it stands, without loading the whole file."""
        return self.file is not None and self.start is not None

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

    def part(self, box: Sequence[tuple[int, int]]) -> StoredTensor:
        """Return a part of it: for each dimension where it begins, and its length."""
        offset = sum(first * step for (first, _), step in zip(box, self.stride, strict=True))
        start = None if self.start is None else self.start + offset * item_bytes(self.dtype)
        return replace(self, shape=tuple(length for _, length in box), start=start)

    def read(self) -> torch.Tensor:
        """Return it, read into memory of its own; on the meta device where it can't be read.

        Raises:
            CheckpointInvalidError: The file became shorter, or can't be read.
        """
        import torch

        from linnaeus.pth._build import DTYPES

        dtype = DTYPES[self.dtype]
        if not self.is_readable:
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
            and self.is_readable
            and str(target.dtype) == f"torch.{self.dtype}"
            and tuple(target.shape) == self.shape
        )
        if alike:
            self._read_into(target)
            torch.autograd.graph.increment_version(target)  # as an assignment in place does
        return alike

    def _read_into(self, target: torch.Tensor) -> None:
        from linnaeus.pth._memory import memory_of

        num_bytes = self.num_bytes
        if self.file is None or self.start is None or not num_bytes:
            return
        first = target.storage_offset() * target.element_size()
        memory = memory_of(target.untyped_storage())[first : first + num_bytes]
        self.file.read_into(memory, self.start, self.record)


def _shorter(path: Path) -> CheckpointInvalidError:
    return CorruptCheckpointError(path=str(path), problem="the file became shorter while it was read")
