"""The convolution part: ConvNeXt's stem, downsamplers and blocks (Liu et al. 2022, arXiv:2201.03545).

Parameter names are those of the published weights (`downsample_layers.i.j`, `stages.i.j.dwconv`, ...).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor, nn

NORM_EPS = 1e-6


def init_affine(module: nn.Module, *, std: float) -> None:
    """Fill a convolution or linear layer: weights truncated normal, bias zero; others untouched."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of an image, at each position: (B, C, H, W) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.LayerNorm.forward
        """Normalize (B, C, H, W) over C."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, a pointwise expansion by four and back, scaled by gamma, added to the input."""

    def __init__(self, dim: int, *, gamma: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(self.norm.weight.new_full((dim,), gamma))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner = self.norm(self.dwconv(x).movedim(1, -1))
        inner = self.gamma * self.pwconv2(F.gelu(self.pwconv1(inner)))
        out: Tensor = x + inner.movedim(-1, 1)
        return out


def stem(in_chans: int, dim: int, *, patch: int) -> nn.Sequential:
    """Return the patchifying stem: a convolution of `patch` by `patch` pixels, then a norm."""
    return nn.Sequential(nn.Conv2d(in_chans, dim, kernel_size=patch, stride=patch), ChannelNorm(dim))


def downsampler(dim: int, dim_out: int) -> nn.Sequential:
    """Return a norm and a 2x2 convolution that halves height and width."""
    return nn.Sequential(ChannelNorm(dim), nn.Conv2d(dim, dim_out, kernel_size=2, stride=2))


def stage(dim: int, depth: int, *, gamma: float) -> nn.Sequential:
    """Return `depth` blocks of one width."""
    return nn.Sequential(*(ConvNeXtBlock(dim, gamma=gamma) for _ in range(depth)))
