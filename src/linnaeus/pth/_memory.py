"""The bytes of a tensor's storage, as Python and the system see them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """Return the bytes of a storage on the CPU, writable, without copying; valid while the storage lives."""
    size_bytes = storage.nbytes()
    if not size_bytes:
        return memoryview(b"")
    array = (ctypes.c_ubyte * size_bytes).from_address(storage.data_ptr())
    return memoryview(array).cast("B")
