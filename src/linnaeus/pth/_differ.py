"""How far apart two tensors of one shape are, in pieces, so that no copy of either is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

_PIECE_ELEMENTS = 1 << 20
# Not every number of theirs is one in float64.
_WIDE_INTEGERS = (torch.int64, torch.uint64)

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Gap:
    """The difference: its largest value, that against the largest value of either, and in how many places."""

    largest: float = 0.0
    relative: float = 0.0
    num_elements: int = 0


def gap_between(a: torch.Tensor, b: torch.Tensor) -> Gap:
    """Compare two tensors of the same shape, element by element; NaN is equal to NaN.

    A finite number and one that is not are infinitely far apart.
    """
    a, b, repeated = _without_repeats(_dense(a), _dense(b))
    largest = scale = 0.0
    num_elements = 0
    for x, y in _pieces(a, b):
        unequal, gap = _compare(x, y)
        if unequal:
            num_elements += unequal
            largest = max(largest, gap)
        scale = max(scale, _largest(x), _largest(y))
    if not num_elements:
        return Gap()
    relative = largest / scale if scale and math.isfinite(largest) else math.inf
    return Gap(largest, relative, num_elements * repeated)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu()
    return plain.dequantize() if plain.is_quantized else plain


def _without_repeats(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return one element where both repeat it (expanded tensors may be without end).

    And how often they do.
    """
    repeated = 1
    for dim, steps in enumerate(zip(a.stride(), b.stride(), strict=True)):
        if steps == (0, 0) and a.shape[dim] > 1:
            repeated *= a.shape[dim]
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a, b, repeated


def _pieces(a: torch.Tensor, b: torch.Tensor) -> Iterator[Pair]:
    if a.numel() <= _PIECE_ELEMENTS:
        yield a, b
        return
    dim = max(range(a.dim()), key=lambda dim: a.shape[dim])
    half = (a.shape[dim] + 1) // 2
    for x, y in zip(a.split(half, dim), b.split(half, dim), strict=True):
        yield from _pieces(x, y)


def _wide(piece: torch.Tensor) -> torch.Tensor:
    if piece.dtype.itemsize == 1 and str(piece.dtype).startswith("torch.float4"):
        piece = piece.contiguous().view(torch.uint8)  # torch has no arithmetic for it
    return piece.to(torch.complex128 if piece.is_complex() else torch.float64)


def _compare(x: torch.Tensor, y: torch.Tensor) -> tuple[int, float]:
    """Return how many elements of a piece differ, and by how much at most."""
    if not x.numel():
        return 0, 0.0
    wide_x, wide_y = _wide(x), _wide(y)
    exact = x.dtype == y.dtype and x.dtype in _WIDE_INTEGERS
    unequal = x.view(torch.int64) != y.view(torch.int64) if exact else wide_x != wide_y
    unequal &= ~(wide_x.isnan() & wide_y.isnan())
    number = int(unequal.sum())
    if not number:
        return 0, 0.0
    gap = float((wide_x - wide_y).abs()[unequal].nan_to_num(nan=math.inf).max())
    return number, max(gap, 1.0) if exact else gap


def _largest(piece: torch.Tensor) -> float:
    if not piece.numel():
        return 0.0
    return float(_wide(piece).abs().nan_to_num(nan=0.0, posinf=0.0).max())
