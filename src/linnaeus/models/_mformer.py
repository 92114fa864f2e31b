"""mFormer: two ConvNeXt stages, RoPE-ViT blocks over what they see, and a linear head per taxonomic rank."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from linnaeus.errors import ConfigError
from linnaeus.models._convnext import NORM_EPS, downsampler, init_affine, stage, stem
from linnaeus.models._shapes import MFormerShape
from linnaeus.models._vit import RoPEBlock


class mFormer(nn.Module):  # noqa: N801 - the architecture is spelled so
    """A hybrid image classifier for labels at several taxonomic ranks.

    Weights are drawn at construction from torch's default generator and nowhere else.

    Args:
        shape: Its size.
        heads: Number of classes for each rank, by the rank's name.
        in_chans: Channels of the images.

    Raises:
        ConfigError: A rank's name can't name a module, or a rank has no classes.
    """

    def __init__(self, shape: MFormerShape, *, heads: Mapping[str, int], in_chans: int = 3) -> None:
        super().__init__()
        self.shape = shape
        dims = shape.conv_dims
        self.downsample_layers = nn.ModuleList(
            [
                stem(in_chans, dims[0], patch=shape.stem_patch),
                downsampler(dims[0], dims[1]),
                downsampler(dims[1], dims[2]),
            ]
        )
        self.stages = nn.ModuleList(
            stage(dim, depth, gamma=shape.conv_gamma)
            for dim, depth in zip(dims[:2], shape.conv_depths, strict=True)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.blocks = nn.ModuleList(_block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=NORM_EPS)
        self.heads = heads_of(heads, shape.dim)
        self.apply(partial(init_affine, std=shape.init_std))
        nn.init.trunc_normal_(self.cls_token, std=shape.init_std)

    def forward_conv(self, images: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) to the tokens' map (B, dim, H / stride, W / stride)."""
        x: Tensor = self.stages[0](self.downsample_layers[0](images))
        x = self.stages[1](self.downsample_layers[1](x))
        out: Tensor = self.downsample_layers[2](x)
        return out

    def forward_tokens(self, patches: Tensor) -> Tensor:
        """Map a map of patch tokens (B, dim, h, w) to the normed class token (B, dim)."""
        grid = (patches.shape[-2], patches.shape[-1])
        cls_token = self.cls_token.expand(patches.shape[0], -1, -1)
        x = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x, grid)
        out: Tensor = self.norm(x[:, 0])
        return out

    def forward_features(self, images: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) to features (B, dim)."""
        return self.forward_tokens(self.forward_conv(images))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (B, in_chans, H, W) to logits (B, num_classes) for each rank."""
        features = self.forward_features(images)
        return {rank: head(features) for rank, head in self.heads.items()}


def _block(shape: MFormerShape) -> RoPEBlock:
    return RoPEBlock(
        shape.dim,
        shape.num_heads,
        mlp_ratio=shape.mlp_ratio,
        layer_scale=shape.layer_scale,
        mixed=shape.rope_mixed,
        theta=shape.theta,
    )


def heads_of(heads: Mapping[str, int], dim: int) -> nn.ModuleDict:
    """Return a linear head for each rank over features of a width.

    Raises:
        ConfigError: A rank's name can't name a module, or a rank has no classes.
    """
    for rank, num_classes in heads.items():
        if not rank.isidentifier() or hasattr(nn.ModuleDict, rank):
            raise ConfigError(
                field="MODEL.HEADS",
                expected="a rank's name is letters, digits and underscores, and no word that torch keeps",
                value=rank,
            )
        if num_classes < 1:
            raise ConfigError(field=f"MODEL.HEADS.{rank}", expected="one class or more", value=num_classes)
    return nn.ModuleDict({rank: nn.Linear(dim, num_classes) for rank, num_classes in heads.items()})
