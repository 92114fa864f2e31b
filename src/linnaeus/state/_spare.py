"""Memory for copies of a state, kept from one save to the next: fresh memory costs more than the copying."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from linnaeus.pth import memory_of

_ALIGNMENT = 64


class SpareMemory:
    """One buffer that grows to the largest state copied into it. Serves one save at a time."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    @property
    def size_bytes(self) -> int:
        """How much is held."""
        return self._buffer.numel()

    def copies(self, storages: Sequence[torch.UntypedStorage]) -> list[memoryview]:
        """Copy storages on the CPU, and return the copies; they are good until the next call."""
        sizes = [storage.nbytes() for storage in storages]
        needed = sum(size + -size % _ALIGNMENT for size in sizes)
        if needed > self._buffer.numel():
            self._buffer = torch.empty(0, dtype=torch.uint8)  # the old one first, so that both are never held
            self._buffer = torch.empty(needed, dtype=torch.uint8)
        base, memory = self._buffer.data_ptr(), memory_of(self._buffer.untyped_storage())
        views, position = [], 0
        for storage, size in zip(storages, sizes, strict=True):
            # One thread suffices for the memory's bandwidth; torch's would have to wait for each other.
            ctypes.memmove(base + position, storage.data_ptr(), size)
            views.append(memory[position : position + size])
            position += size + -size % _ALIGNMENT
        return views

    def forget(self) -> None:
        """Leave the buffer to who still reads it, and begin another next time."""
        self._buffer = torch.empty(0, dtype=torch.uint8)
