"""Small transformers that tell of themselves what published ones do: grid, tokens, windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Patches of an image; `grid_size` is the (rows, columns) that there are."""

    def __init__(self, size: tuple[int, int], patch: int, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.grid_size = (size[0] // patch, size[1] // patch)
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, N, D)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """Tokens with positions, and a head; enough to see what positions do."""

    def __init__(
        self,
        size: tuple[int, int] = (8, 8),
        *,
        patch: int = 2,
        dim: int = 4,
        registers: int = 0,
        embedded: str = "all",
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(size, patch, dim, in_chans)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        if registers:
            self.reg_token = nn.Parameter(torch.randn(1, registers, dim))
        others = {"all": 1 + registers, "class": 1, "none": 0}[embedded]
        self.pos_embed = nn.Parameter(torch.randn(1, others + math.prod(self.patch_embed.grid_size), dim))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 5)


class WindowAttention(nn.Module):
    """Attention within a window with a table of relative positions; `num_others` tokens stand before it."""

    def __init__(self, window: tuple[int, int], *, num_others: int = 0, first_row: bool = False) -> None:
        super().__init__()
        height, width = window
        rows = (2 * height - 1) * (2 * width - 1)
        self.relative_position_bias_table = nn.Parameter(torch.randn(rows + (1 if num_others else 0), 2))
        places = [(n // width, n % width) for n in range(height * width)]
        inside = torch.tensor(
            [
                [(a - c + height - 1) * (2 * width - 1) + b - d + width - 1 for c, d in places]
                for a, b in places
            ]
        )
        index = torch.full((num_others + len(places),) * 2, 0 if first_row else rows)
        index[num_others:, num_others:] = inside
        self.register_buffer("relative_position_index", index)


def cubic(distance: float) -> float:
    """Return Keys' cubic kernel with a = -0.5."""
    x, a = abs(distance), -0.5
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic_matrix(source: int, target: int) -> Tensor:
    """Return the matrix (target, source) of antialiased bicubic resampling by its definition."""
    scale = source / target
    wide = max(scale, 1.0)
    rows = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        centre = (i + 0.5) * scale
        for j in range(source):
            rows[i, j] = cubic((j + 0.5 - centre) / wide)
    return rows / rows.sum(1, keepdim=True)


def bicubic(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resample a table (rows * columns, channels) to another grid."""
    image = table.double().reshape(*source, -1)
    image = torch.einsum("ih,hwc->iwc", bicubic_matrix(source[0], target[0]), image)
    return torch.einsum("jw,iwc->ijc", bicubic_matrix(source[1], target[1]), image).flatten(0, 1)
