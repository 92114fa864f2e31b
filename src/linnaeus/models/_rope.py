"""Rotary position embedding in two dimensions (Heo et al. 2024, arXiv:2403.13298).

A head's channels form `head_dim // 2` pairs. The pair k of the token at column x and row y is turned
by the angle `x * fx[k] + y * fy[k]`. With mixed frequencies fx and fy are learned for each block and head;
with axial ones they are constants of which the first half of the pairs sees x alone, the second half y alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIXED_THETA = 10.0
AXIAL_THETA = 100.0


def axial_frequencies(head_dim: int, num_heads: int, *, theta: float) -> Tensor:
    """Return the constant frequencies of axial RoPE: (2, num_heads, head_dim // 2), x first, float32.

    Args:
        head_dim: Channels of a head, a multiple of four.
        num_heads: Number of heads; all get the same.
        theta: Base: pair k turns by `theta ** (-4k / head_dim)` per column or row.

    Returns:
        fx and fy, stacked.
    """
    # Constants have values also in a model without memory, so that a rehearsed load can compare them.
    device = "cpu" if torch.get_default_device().type == "meta" else None
    size = theta ** -(torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim)
    none = torch.zeros_like(size)
    one_head = torch.stack([torch.cat([size, none]), torch.cat([none, size])])
    return one_head.unsqueeze(1).repeat(1, num_heads, 1)


def mixed_frequencies(head_dim: int, num_heads: int, *, theta: float) -> Tensor:
    """Return what mixed RoPE starts from: axial frequencies, the plane turned by a random angle per head.

    Args:
        head_dim: Channels of a head, a multiple of four.
        num_heads: Number of heads.
        theta: Base, as in `axial_frequencies`.

    Returns:
        fx and fy, stacked: (2, num_heads, head_dim // 2), float32.
    """
    if torch.get_default_device().type == "meta":  # to calculate there, torch loads its compiler: two seconds
        return torch.empty(2, num_heads, head_dim // 2)
    angle = 2 * torch.pi * torch.rand(num_heads, 1)
    fx, fy = axial_frequencies(head_dim, num_heads, theta=theta).to(angle.device)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([fx * cos - fy * sin, fx * sin + fy * cos])


def rotation(freqs: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angle of each token's pairs, in float32 or wider.

    Args:
        freqs: (2, heads, head_dim // 2).
        height: Rows of the token grid.
        width: Columns of the token grid.

    Returns:
        Two tensors (heads, height * width, head_dim // 2); tokens run along the rows.
    """
    # Half precision can't tell neighbouring angles apart: a bfloat16 holds no 129.
    freqs = freqs.to(torch.promote_types(freqs.dtype, torch.float32))
    xs = torch.arange(width, dtype=freqs.dtype, device=freqs.device).repeat(height)
    ys = torch.arange(height, dtype=freqs.dtype, device=freqs.device).repeat_interleave(width)
    fx, fy = freqs[0].unsqueeze(1), freqs[1].unsqueeze(1)
    angle = xs[:, None] * fx + ys[:, None] * fy
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2k, 2k + 1) of the last dimension of x by the given angles.

    Args:
        x: (B, heads, N, head_dim).
        cos: (heads, N, head_dim // 2), as `rotation` gives it.
        sin: The same for the sine.

    Returns:
        The turned tensor, in x's shape and dtype.
    """
    pairs = x.to(cos.dtype)
    even, odd = pairs[..., 0::2], pairs[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
