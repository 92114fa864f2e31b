"""Real images with labels on two taxonomic ranks: handwritten digits, and whether each is even or odd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from linnaeus.errors import ConfigError
from linnaeus.training._options import DataOptions

_VALIDATION_SHARE = 0.2
_SPLIT_SEED = 1797


class Images(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images in memory, optionally moved about at random.

    Args:
        images: (num, 1, height, width), float32, 0 to 1.
        labels: Per rank the classes, (num,), int64.
        shift: Move each image by up to so many pixels, drawn from torch's global stream.
    """

    def __init__(self, images: Tensor, labels: dict[str, Tensor], shift: int = 0) -> None:
        self.images = images
        self.labels = labels
        self._shift = shift

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.images[index]
        if self._shift:
            height, width = image.shape[-2:]
            down, right = torch.randint(0, 2 * self._shift + 1, (2,)).tolist()
            padded = functional.pad(image, (self._shift,) * 4)
            image = padded[:, down : down + height, right : right + width]
        return image, {rank: classes[index] for rank, classes in self.labels.items()}


@dataclass(frozen=True, slots=True)
class Data:
    """What to learn from, what to be judged by, and the number of classes of each rank, finest first."""

    train: Images
    validation: Images
    num_classes: dict[str, int]


def load_data(options: DataOptions) -> Data:
    """Load the images and split them, always the same way.

    Raises:
        ConfigError: scikit-learn, which ships them, is not installed.
    """
    images, digits = _digits()
    if images.shape[-1] != options.IMG_SIZE:
        size = (options.IMG_SIZE, options.IMG_SIZE)
        images = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    labels = {"digit": digits, "parity": digits % 2}
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out, kept = order.tensor_split([int(len(order) * _VALIDATION_SHARE)])

    def take(part: Tensor, shift: int) -> Images:
        return Images(images[part], {rank: classes[part] for rank, classes in labels.items()}, shift)

    return Data(take(kept, options.SHIFT), take(held_out, 0), {"digit": 10, "parity": 2})


def _digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits: (1797, 1, 8, 8) from 0 to 1, and their classes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            field="DATA.DATASET",
            expected='the images of "digits" come with scikit-learn: pip install "linnaeus[demo]"',
            value="digits",
        ) from error
    bundle: Any = load_digits()
    images = torch.tensor(bundle.images.tolist(), dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(bundle.target.tolist(), dtype=torch.int64)
