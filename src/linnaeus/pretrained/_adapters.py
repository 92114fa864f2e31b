"""Adapters: each makes of one weight another that gives the model the same function.

All are pure, know the shape of what they make beforehand, and compute in float32 or wider.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from linnaeus.pretrained._weights import Shape, Weight


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def folded(weight: Weight, gamma: Weight) -> Weight:
    """Scale each output of a linear map or its bias by gamma: gamma * (W x + b) = (gamma W) x + (gamma b).

    Args:
        weight: A weight (out, ...) or a bias (out,).
        gamma: The scale, (out,).
    """

    def read() -> Tensor:
        value, scale = weight.read().to(dtype), gamma.read().to(dtype)
        return value * scale.reshape(-1, *[1] * (value.ndim - 1))

    dtype = _wide(weight.dtype)
    origins = (*weight.origins, *gamma.origins)
    return replace(weight, dtype=dtype, origins=origins, read=read, adapted="LayerScale folded in")


def unit_scale(shape: Shape) -> Weight:
    """Return a scale of ones, for a model that scales what its source does not."""
    return Weight(
        shape=shape,
        dtype=torch.float32,
        origins=(),
        read=lambda: torch.ones(shape),
        adapted="ones: the source does not scale",
    )


def sliced(weight: Weight, *, dim: int, index: int, shape: Shape) -> Weight:
    """Take one index along a dimension and view it in another shape."""
    return replace(
        weight,
        shape=shape,
        read=lambda: weight.read().select(dim, index).reshape(shape),
        adapted=f"index {index} of {', '.join(weight.origins)}",
    )


def summed_channels(weight: Weight) -> Weight:
    """Sum a convolution's weight (out, in, ...) over its inputs: a gray image is alike in every channel."""
    rest = weight.shape[2:]
    return replace(
        weight,
        shape=(weight.shape[0], 1, *rest),
        dtype=_wide(weight.dtype),
        read=lambda: weight.read().to(_wide(weight.dtype)).sum(1, keepdim=True),
        adapted=f"summed over {weight.shape[1]} input channels",
    )


def axial_weight(shape: Shape, *, theta: float) -> Weight:
    """Return axial rotary frequencies of a base, for a source that has them in its code only."""
    return Weight(
        shape=shape,
        dtype=torch.float32,
        origins=(),
        read=lambda: axial_frequencies(shape, theta=theta),
        adapted=f"axial frequencies of base {theta:g}",
    )


def axial_frequencies(shape: Shape, *, theta: float) -> Tensor:
    """Return the constant frequencies of axial RoPE (Heo et al. 2024, arXiv:2403.13298).

    Args:
        shape: (2, heads, head_dim // 2): along x, along y.
        theta: Base; pair k turns by `theta ** (-4k / head_dim)`.
    """
    _, _, num_pairs = shape
    exponents = torch.arange(num_pairs // 2, dtype=torch.float32) * 2 / num_pairs
    freqs = torch.zeros(shape)
    freqs[0, :, : num_pairs // 2] = freqs[1, :, num_pairs // 2 :] = theta**-exponents
    return freqs


def rotary_base(freqs: Tensor) -> float | None:
    """Return the base of axial frequencies (2, heads, head_dim // 2), or None for other ones."""
    if freqs.ndim != 3 or freqs.shape[-1] < 4:
        return None
    num_pairs = freqs.shape[-1]
    speed = float(freqs[0, 0, 1])
    if not 0 < speed < 1:
        return None
    base = speed ** (-num_pairs / 2)
    same = torch.allclose(
        freqs.float(), axial_frequencies(tuple(freqs.shape), theta=base), rtol=1e-2, atol=1e-6
    )
    return float(f"{base:.3g}") if same else None
