"""The bytes of a tensor's storage, as Python and the system see them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """Return the bytes of a storage on the CPU, writable, without copying; they keep it alive."""
    size_bytes = storage.nbytes()
    if not size_bytes:
        return memoryview(b"")
    array: Any = (ctypes.c_ubyte * size_bytes).from_address(storage.data_ptr())
    array.of = storage
    return memoryview(array).cast("B")


def region(storage: torch.UntypedStorage, start: int, end: int) -> torch.Tensor:
    """Return bytes of a storage as a tensor; on the CPU its own storage is exactly those, without copying.

    When it is all of them, that is the storage itself, as whoever knows it by its number will find.
    """
    import torch  # here, so that describing and resolving stay free of torch

    if start >= end:
        return torch.empty(0, dtype=torch.uint8)
    is_all = (start, end) == (0, storage.nbytes())
    if is_all or storage.device.type != "cpu":
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)[start:end]
    return torch.frombuffer(memory_of(storage)[start:end], dtype=torch.uint8)
