"""What a source offers: tensors by name, with their shapes known and their values read only when asked for.

So a load can be planned, and refused, before a byte of the tensors is touched; and what an adapter makes
lives only while it is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One tensor on its way from a source to a model.

    Attributes:
        shape: Its shape when it is read.
        dtype: Its dtype when it is read.
        origins: The names in the source that it is made of.
        read: Gives its value.
        adapted: What was done to it on the way, or None when nothing was.
        constant: What it is, when a model that holds it as a constant must already agree with it.
    """

    shape: Shape
    dtype: torch.dtype
    origins: tuple[str, ...]
    read: Callable[[], Tensor]
    adapted: str | None = None
    constant: str | None = None

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def weight_of(name: str, tensor: Tensor) -> Weight:
    """Return a source's tensor, as it is, under the name it has there."""
    return Weight(shape=tuple(tensor.shape), dtype=tensor.dtype, origins=(name,), read=lambda: tensor)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source has for a model after some rules.

    Attributes:
        weights: By the name in the model that each is meant for.
        left: Why a tensor was left out, by its name in the source.
        conflicts: What makes the whole source unfit, one line each.
    """

    weights: Mapping[str, Weight]
    left: Mapping[str, str]
    conflicts: tuple[str, ...] = ()


def offer_of(tensors: Mapping[str, Tensor]) -> Offer:
    """Return a source's tensors, before any rule."""
    return Offer({name: weight_of(name, tensor) for name, tensor in tensors.items()}, {})
