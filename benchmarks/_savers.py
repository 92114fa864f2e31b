"""The ways to save that are compared, each on its own directory."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

import linnaeus
from benchmarks._states import named_tensors
from linnaeus.files import Recycled, recycle

# How many checkpoints a run keeps beside the newest one.
_KEPT = 2


def torch_save(state: Any, path: Path) -> None:
    """Save as most training code does: over the last one, with nothing that guards against a crash."""
    torch.save(state, path)


def torch_save_durably(state: Any, path: Path) -> None:
    """Save with `torch.save` so that a crash at any time leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


def safetensors_save(state: Any, path: Path) -> None:
    """Save the tensors alone with safetensors."""
    save_file(named_tensors(state), path)


def dcp_save(state: Any, path: Path, *, durable: bool) -> None:
    """Save with `torch.distributed.checkpoint`, which makes a directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells that there is one process
        save_distributed(state, storage_writer=FileSystemWriter(path, sync_files=durable), no_dist=True)


def raw_write(tensors: Iterable[Tensor], path: Path) -> None:
    """Write the bytes alone, as fast as the system takes them, and fsync: what no format can beat."""
    memories = [_memory(tensor) for tensor in tensors]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(descriptor, 0, sum(map(len, memories)))
        position = 0
        for memory in memories:
            position = _write_at(descriptor, memory, position)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, memory: memoryview, position: int) -> int:
    while memory:
        written = os.pwrite(descriptor, memory[: 1 << 20], position)
        memory, position = memory[written:], position + written
    return position


def _memory(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeepingSaver:
    """Saves epoch after epoch with linnaeus and keeps the last ones, as a run with retention does."""

    def __init__(self, directory: Path, *, durable: bool, recycling: bool) -> None:
        directory.mkdir()
        self._directory = directory
        self._durable = durable
        self._recycling = recycling
        self._kept: deque[tuple[Path, int]] = deque()
        self._epoch = 0

    def save(self, state: Any) -> Path:
        """Save the next epoch, after letting go of what the one before made superfluous."""
        path = self._directory / f"checkpoint_epoch_{self._epoch}.pth"
        self._epoch += 1
        linnaeus.save(state, path, durable=self._durable, recycled=self._let_go())
        self._kept.append((path, path.stat().st_ino))
        return path

    def fill(self, state: Any) -> None:
        """Save until there is something to let go of."""
        while len(self._kept) <= _KEPT:
            self.save(state)

    def _let_go(self) -> Recycled | None:
        if len(self._kept) <= _KEPT:
            return None
        path, inode = self._kept.popleft()
        if self._recycling:
            return recycle(path, inode)
        path.unlink()
        return None


def empty(directory: Path) -> None:
    """Make a directory empty, or make it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
