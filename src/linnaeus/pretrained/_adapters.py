"""Adapters: each makes of one weight another that gives the model the same function.

All are pure, know the shape of what they make beforehand, and compute in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from linnaeus.pretrained._weights import Shape, Weight


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32, or a wider one."""
    return torch.promote_types(dtype, torch.float32)


def changed(weight: Weight, note: str, shape: Shape, read: Callable[[], Tensor], **more: object) -> Weight:
    """Return a weight that is read in another way; what was done before is told too."""
    told = note if weight.adapted is None else f"{weight.adapted}; {note}"
    return replace(weight, shape=shape, read=read, adapted=told, stored=None, **more)  # type: ignore[arg-type]


def _from(parts: Sequence[Weight], note: str, shape: Shape, read: Callable[[], Tensor]) -> Weight:
    origins = tuple(origin for part in parts for origin in part.origins)
    return changed(parts[0], note, shape, read, origins=origins)


def folded(weight: Weight, gamma: Weight) -> Weight:
    """Scale each output of a linear map or its bias by gamma: gamma * (W x + b) = (gamma W) x + (gamma b).

    Args:
        weight: A weight (out, ...) or a bias (out,).
        gamma: The scale, (out,).
    """

    def read() -> Tensor:
        value, scale = weight.read().to(dtype), gamma.read().to(dtype)
        return value * scale.reshape(-1, *[1] * (value.ndim - 1))

    dtype = wide(weight.dtype)
    origins = (*weight.origins, *gamma.origins)
    return changed(weight, "LayerScale folded in", weight.shape, read, dtype=dtype, origins=origins)


def unit_scale(shape: Shape) -> Weight:
    """Return a scale of ones, for a model that scales what its source does not."""
    return Weight(
        shape=shape,
        dtype=torch.float32,
        origins=(),
        read=lambda: torch.ones(shape, device="cpu"),
        adapted="ones: the source does not scale",
    )


def sliced(weight: Weight, *, dim: int, index: int, shape: Shape) -> Weight:
    """Take one index along a dimension and view it in another shape."""
    note = f"index {index} of {', '.join(weight.origins)}"
    return changed(weight, note, shape, lambda: weight.read().select(dim, index).reshape(shape))


def viewed(weight: Weight, shape: Shape) -> Weight:
    """View a weight in another shape of as many elements."""
    note = f"{', '.join(weight.origins)} viewed as {shape}"
    return changed(weight, note, shape, lambda: weight.read().reshape(shape))


def stacked(parts: Sequence[Weight], *, dim: int, shape: Shape | None) -> Weight:
    """Stack weights along a new dimension, each viewed so that the whole has the wanted shape."""
    one = parts[0].shape
    if shape is not None and len(shape) > dim:
        flat = (*shape[:dim], *shape[dim + 1 :])
        one = flat if torch.Size(flat).numel() == parts[0].num_elements else one
    whole = (*one[:dim], len(parts), *one[dim:])
    read = lambda: torch.stack([part.read().reshape(one) for part in parts], dim)  # noqa: E731 - read once, below
    return _from(parts, f"{len(parts)} layers stacked", whole, read)


def chunk(weight: Weight, *, dim: int, index: int, of: int) -> Weight:
    """Take one of several equal parts along a dimension."""
    size = weight.shape[dim] // of
    shape = (*weight.shape[:dim], size, *weight.shape[dim + 1 :])
    note = f"part {index + 1} of {of} of {', '.join(weight.origins)}"
    return changed(weight, note, shape, lambda: weight.read().narrow(dim, index * size, size))


def joined(parts: Sequence[Weight], *, dim: int) -> Weight:
    """Put weights together along a dimension."""
    one = parts[0].shape
    shape = (*one[:dim], sum(part.shape[dim] for part in parts), *one[dim + 1 :])
    return _from(
        parts, f"{len(parts)} put together", shape, lambda: torch.cat([p.read() for p in parts], dim)
    )


def permuted(weight: Weight, dims: tuple[int, ...]) -> Weight:
    """Put the dimensions into another order."""
    shape = tuple(weight.shape[dim] for dim in dims)
    return changed(weight, "transposed", shape, lambda: weight.read().permute(dims))


def channels(weight: Weight, num_channels: int) -> Weight | None:
    """Bring a convolution's weight (out, in, ...) to images of another number of channels.

    From three to one it is summed: a gray image is alike in every channel. From one to several it is divided
    among them. Channels beyond the third begin with zeros, so that the first three give what they gave.

    Returns:
        The weight, or None when there is no way that keeps the function.
    """
    num_out, given, *rest = weight.shape
    shape, dtype = (num_out, num_channels, *rest), wide(weight.dtype)
    if num_channels == 1:
        note = f"summed over {given} input channels"
        return changed(weight, note, shape, lambda: weight.read().to(dtype).sum(1, keepdim=True), dtype=dtype)
    if given == 1:
        note = f"divided among {num_channels} input channels"
        return changed(
            weight, note, shape, lambda: (weight.read().to(dtype) / num_channels).expand(shape), dtype=dtype
        )
    if num_channels < given:
        return None
    return changed(weight, f"zeros for input channels beyond {given}", shape, lambda: _padded(weight, shape))


def _padded(weight: Weight, shape: Shape) -> Tensor:
    value = weight.read()
    return torch.cat([value, value.new_zeros(shape[0], shape[1] - value.shape[1], *shape[2:])], dim=1)


def axial_weight(shape: Shape, *, theta: float, retune: bool = False) -> Weight:
    """Return axial rotary frequencies of a base, for a source that has them in its code only.

    With `retune` they also replace constants of another base.
    """
    return Weight(
        shape=shape,
        dtype=torch.float32,
        origins=(),
        read=lambda: axial_frequencies(shape, theta=theta),
        adapted=f"axial frequencies of base {theta:g}",
        constant="" if retune else None,
    )


def axial_frequencies(shape: Shape, *, theta: float) -> Tensor:
    """Return the constant frequencies of axial RoPE (Heo et al. 2024, arXiv:2403.13298).

    Args:
        shape: (2, heads, head_dim // 2): along x, along y.
        theta: Base; pair k turns by `theta ** (-4k / head_dim)`.
    """
    _, _, num_pairs = shape
    exponents = torch.arange(num_pairs // 2, dtype=torch.float32, device="cpu") * 2 / num_pairs
    freqs = torch.zeros(shape, device="cpu")
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
