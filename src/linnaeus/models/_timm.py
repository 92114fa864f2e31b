"""A backbone of timm, where that package is installed, with a linear head for each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from linnaeus.errors import ConfigError
from linnaeus.models._mformer import heads_of

PREFIX = "timm/"


class TimmClassifier(nn.Module):
    """A backbone and its heads; the backbone's parameters have the names that timm gives them.

    Args:
        name: The model's name in timm.
        heads: Number of classes for each rank, by the rank's name.
        in_chans: Channels of the images.

    Raises:
        ConfigError: timm is not installed, or has no such model.
    """

    def __init__(self, name: str, *, heads: Mapping[str, int], in_chans: int = 3) -> None:
        super().__init__()
        self.backbone = _backbone(name, in_chans)
        self.heads = heads_of(heads, int(cast("Any", self.backbone).num_features))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (B, in_chans, H, W) to logits (B, num_classes) for each rank."""
        features = self.backbone(images)
        return {rank: head(features) for rank, head in self.heads.items()}


def _backbone(name: str, in_chans: int) -> nn.Module:
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            field="MODEL.NAME",
            expected="the package timm is not installed: pip install timm",
            value=PREFIX + name,
        ) from error
    try:
        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_chans)
    except RuntimeError as error:  # what timm raises for a name that it does not know
        raise ConfigError(field="MODEL.NAME", expected=f"timm: {error}", value=PREFIX + name) from error
    return made
