"""The sizes of mFormer: those whose parts are published, and `nano`, which trains on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from linnaeus.errors import ConfigError
from linnaeus.models._rope import AXIAL_THETA, MIXED_THETA


@dataclass(frozen=True, slots=True, kw_only=True)
class MFormerShape:
    """Everything that decides the parameters of an mFormer, but its input channels and heads.

    Attributes:
        conv_dims: Widths of the two convolution stages, and the width they are brought to for the blocks.
        conv_depths: Blocks in each of the two convolution stages.
        dim: Width of the transformer blocks; must be the last of `conv_dims`.
        depth: Number of transformer blocks.
        num_heads: Attention heads of each; `dim / num_heads` must be a multiple of four.
        mlp_ratio: Hidden width of a block's MLP over `dim`.
        stem_patch: Pixels per side of the stem's patches.
        init_std: Spread of the weights at first; the published 0.02 is slow to start at small widths.
        conv_gamma: What the residual scale of convolution blocks starts from.
        layer_scale: What the LayerScale of transformer blocks starts from; None for blocks without.
        rope_mixed: Whether rotary frequencies are learned per block and head, or axial constants.
        rope_theta: Base of the rotary frequencies; None for the published one (mixed 10, axial 100).
    """

    conv_dims: tuple[int, int, int]
    conv_depths: tuple[int, int] = (3, 3)
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    stem_patch: int = 4
    init_std: float = 0.02
    conv_gamma: float = 1e-6
    layer_scale: float | None = 1e-4
    rope_mixed: bool = True
    rope_theta: float | None = None

    def __post_init__(self) -> None:
        if self.conv_dims[-1] != self.dim:
            raise ConfigError(
                field="MODEL.ROPE_STAGES.DIM",
                expected=f"the transformer blocks are {self.dim} wide, but the convolution stages"
                f" (MODEL.CONVNEXT_STAGES.DIMS) end {self.conv_dims[-1]} wide; the two must meet",
                value=self.dim,
            )
        if self.dim % (4 * self.num_heads):
            raise ConfigError(
                field="MODEL.ROPE_STAGES.NUM_HEADS",
                expected=f"heads must divide the width {self.dim} into a multiple of four channels each",
                value=self.num_heads,
            )

    @property
    def stride(self) -> int:
        """Pixels per side of what one token stands for."""
        return self.stem_patch * 4

    @property
    def theta(self) -> float:
        """Base of the rotary frequencies."""
        if self.rope_theta is not None:
            return self.rope_theta
        return MIXED_THETA if self.rope_mixed else AXIAL_THETA


_TINY_SMALL = MFormerShape(conv_dims=(96, 192, 384), dim=384, depth=12, num_heads=6)

# The first two stages of ConvNeXt-tiny and -small are alike: sm and md differ in the weights they start from.
VARIANTS: Mapping[str, MFormerShape] = MappingProxyType(
    {
        "mFormer_nano": MFormerShape(
            conv_dims=(24, 48, 96),
            conv_depths=(1, 1),
            dim=96,
            depth=3,
            num_heads=3,
            mlp_ratio=2,
            stem_patch=1,
            init_std=0.1,
            conv_gamma=0.1,
            layer_scale=None,
        ),
        "mFormer_sm": _TINY_SMALL,
        "mFormer_md": _TINY_SMALL,
        "mFormer_lg": MFormerShape(conv_dims=(192, 384, 768), dim=768, depth=12, num_heads=12),
        "mFormer_xl": MFormerShape(conv_dims=(256, 512, 1024), dim=1024, depth=24, num_heads=16),
    }
)
