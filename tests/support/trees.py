"""Compare saved trees bit for bit."""

from __future__ import annotations

import struct
from typing import Any

import torch


def same(a: Any, b: Any) -> bool:
    """Tell whether two trees are equal in structure, types and every bit, NaNs included."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and same_tensor(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have the same dtype, shape and bytes."""
    if (a.dtype, a.shape, a.is_conj(), a.requires_grad) != (b.dtype, b.shape, b.is_conj(), b.requires_grad):
        return False
    return bytes_of(a) == bytes_of(b)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements as bytes."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)  # contiguous, whatever the tensor's strides are
    flat.copy_(tensor.detach().reshape(-1))
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
