"""Memory for copies of a state, kept from one save to the next: fresh memory costs more than the copying."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence

import torch

from linnaeus.pth import memory_of
from linnaeus.state._staging import Staging

_ALIGNMENT = 64
# What one thread copies at a time: the others wait for no more than this when it is kept from running.
_PIECE_BYTES = 4 << 20
# More threads do not make memory faster.
_MAX_THREADS = 4

_Move = tuple[int, int, int]


class SpareMemory:
    """One buffer that grows to the largest state copied into it. Serves one save at a time.

    Args:
        staging: Likewise for what comes from devices.
    """

    def __init__(self, staging: Staging | None = None) -> None:
        self.staging = staging or Staging()
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
        views, moves, position = [], list[_Move](), 0
        for storage, size in zip(storages, sizes, strict=True):
            moves += _pieces(base + position, storage.data_ptr(), size)
            views.append(memory[position : position + size])
            position += size + -size % _ALIGNMENT
        _move_all(moves)
        return views


def _pieces(target: int, source: int, size: int) -> Iterator[_Move]:
    for start in range(0, size, _PIECE_BYTES):
        yield target + start, source + start, min(_PIECE_BYTES, size - start)


def _move_all(moves: Sequence[_Move]) -> None:
    """Copy memory in a few threads, each taking the next piece when it is done with one.

    Not by torch's parallel copy, whose threads wait for each other at every tensor: where other processes
    want the processors too, as the loaders of data do, that was seen to take twenty times as long.
    """
    num_bytes = sum(size for *_, size in moves)
    left = iter(moves)  # `next` of it is one step of the interpreter, so each piece goes to one thread
    num_threads = min(_MAX_THREADS, torch.get_num_threads(), num_bytes // _PIECE_BYTES)
    others = [threading.Thread(target=_move, args=(left,), daemon=True) for _ in range(num_threads - 1)]
    for thread in others:
        thread.start()
    _move(left)
    for thread in others:
        thread.join()


def _move(left: Iterator[_Move]) -> None:
    for target, source, size in left:
        ctypes.memmove(target, source, size)  # without the interpreter's lock
