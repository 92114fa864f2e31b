"""The bytes of a file's storages in memory: mapped, or read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from linnaeus.errors import CheckpointInvalidError
from linnaeus.pth._build import LyingError
from linnaeus.pth._memory import memory_of

Storages = Callable[[int], torch.UntypedStorage]
Places = Sequence[tuple[int, int]]


def map_whole(path: Path, descriptor: int) -> torch.UntypedStorage:
    """Map an open file, private to this process.

    Args:
        path: Its name, which may be another file's by now.
        descriptor: The open file.

    Raises:
        CheckpointInvalidError: The system won't map it.
    """
    # Torch opens it anew by a name; this one stands for the file that is open, and is always text in ASCII.
    open_as = Path(f"/dev/fd/{descriptor}")
    size_bytes = os.fstat(descriptor).st_size
    name = str(open_as if open_as.exists() else path)
    try:
        whole: Any = torch.UntypedStorage.from_file(name, False, size_bytes)
    except (OSError, RuntimeError) as error:  # torch's own reports of the system's refusals are either
        raise CheckpointInvalidError(path=str(path), problem=f"it can't be mapped ({error})") from error
    return whole  # type: ignore[no-any-return]


def mapped_storages(whole: torch.UntypedStorage, places: Places, device: Any) -> Storages:
    """Give each storage as a part of the mapped file."""
    return _kept(places, device, lambda offset, size: whole[offset : offset + size])


def read_storages(descriptor: int, places: Places, device: Any) -> Storages:
    """Read each storage of an open file into memory of its own when it is first asked for."""

    def read(offset: int, size: int) -> torch.UntypedStorage:
        storage = torch.UntypedStorage(size)
        read_into(descriptor, memory_of(storage), offset)
        return storage

    return _kept(places, device, read)


def read_into(descriptor: int, memory: memoryview, offset: int) -> None:
    """Fill memory with an open file's bytes from `offset` on.

    Raises:
        LyingError: The file ends before.
        OSError: It can't be read.
    """
    while memory:
        count = os.preadv(descriptor, [memory], offset)
        if not count:
            raise LyingError("the file is shorter")
        memory, offset = memory[count:], offset + count


def _kept(places: Places, device: Any, make: Callable[[int, int], torch.UntypedStorage]) -> Storages:
    """Make each storage once, so that tensors that shared one still do."""
    made: dict[int, torch.UntypedStorage] = {}
    on_cpu = torch.device(device).type == "cpu"

    def storage(key: int) -> torch.UntypedStorage:
        known = made.get(key)
        if known is None:
            offset, size = places[key]
            known = make(offset, size) if size else torch.UntypedStorage(0)
            made[key] = known if on_cpu else known.to(device=torch.device(device))
            known = made[key]
        return known

    return storage
