"""The transformer part: pre-norm ViT blocks whose attention turns queries and keys by position.

Parameter names are those of the published RoPE-ViT weights, except that each block holds its own `freqs`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor, nn

from linnaeus.models._convnext import NORM_EPS
from linnaeus.models._rope import axial_frequencies, mixed_frequencies, rotate, rotation


class Attention(nn.Module):
    """Multi-head self-attention over one class token, which has no place, and a grid of patch tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (B, 1 + N, C) to the same shape; cos and sin are (heads, N, head_dim // 2)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (torch.cat([t[:, :, :1], rotate(t[:, :, 1:], cos, sin)], dim=2) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class RoPEBlock(nn.Module):
    """Attention and MLP, each after a norm and added to its input, scaled per channel where LayerScale is on.

    `freqs`, (2, heads, head_dim // 2), is a parameter with mixed frequencies and a buffer with axial
    ones: constants too are part of what the weights mean, so a checkpoint carries them.
    """

    freqs: Tensor
    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: int,
        layer_scale: float | None,
        mixed: bool,
        theta: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        for name in ("gamma_1", "gamma_2"):
            gamma = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
            self.register_parameter(name, gamma)
        if mixed:
            self.freqs = nn.Parameter(mixed_frequencies(dim // num_heads, num_heads, theta=theta))
        else:
            self.register_buffer("freqs", axial_frequencies(dim // num_heads, num_heads, theta=theta))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (B, 1 + N, C) to the same shape; `grid` is the tokens' (height, width), N their product."""
        cos, sin = (part.to(x.device) for part in rotation(self.freqs, *grid))
        x = x + _scaled(self.attn(self.norm1(x), cos, sin), self.gamma_1)
        return x + _scaled(self.mlp(self.norm2(x)), self.gamma_2)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
