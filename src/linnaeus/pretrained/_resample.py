"""Tables over a grid, brought to another grid by antialiased bicubic resampling.

The cubic kernel of Keys (1981) with a = -0.5, pixel centres aligned, widened when shrinking: what image
libraries call bicubic, and what the authors of vision transformers use for their position tables.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor

Grid = tuple[int, int]


def resampled(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Return a table over another grid.

    Args:
        table: (height * width, channels), rows of the grid one after another.
        source: Its grid, (height, width).
        target: The other grid.

    Returns:
        (height * width, channels) of the target, in the table's dtype.
    """
    if source == target:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    image = wide.reshape(1, *source, -1).permute(0, 3, 1, 2)
    made = F.interpolate(image, size=target, mode="bicubic", align_corners=False, antialias=True)
    return made.permute(0, 2, 3, 1).reshape(target[0] * target[1], -1).to(table.dtype)


def patch_matrix(source: int, target: int) -> Tensor:
    """Return the matrix that resamples the pixels of square patches: (target ** 2, source ** 2), float64."""
    basis = torch.eye(source * source, dtype=torch.float64).reshape(-1, 1, source, source)
    made = F.interpolate(basis, size=(target, target), mode="bilinear", align_corners=False)
    return made.reshape(source * source, target * target).T


def patch_kernel(weight: Tensor, size: int) -> Tensor:
    """Return a patch embedding's weight for patches of another size.

    It is the least-squares solution of "the resampled patch gives what the patch gave" (Beyer et al. 2023,
    FlexiViT, arXiv:2212.08013): exact for larger patches, the nearest one for smaller.

    Args:
        weight: (out, in, source, source).
        size: Pixels per side of the new patches.
    """
    source = weight.shape[-1]
    solve = torch.linalg.pinv(patch_matrix(source, size).T)
    flat: Tensor = weight.to(torch.float64).reshape(-1, source * source) @ solve.T
    return flat.reshape(*weight.shape[:2], size, size).to(torch.promote_types(weight.dtype, torch.float32))


def square_side(count: int) -> int | None:
    """Return the side of a square grid of so many places, or None when there is none."""
    side = round(count**0.5)
    return side if side * side == count and side > 0 else None
