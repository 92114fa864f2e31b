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

from linnaeus.pth import StoredTensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Held = Tensor | StoredTensor
"""A tensor of a source: in memory, or still in its file."""


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
        stored: The tensor in its file, while nothing was done to it.
        rows: Which rows of the model's tensor it fills; None for all of them.
    """

    shape: Shape
    dtype: torch.dtype
    origins: tuple[str, ...]
    read: Callable[[], Tensor]
    adapted: str | None = None
    constant: str | None = None
    stored: StoredTensor | None = None
    rows: tuple[int, ...] | None = None

    @property
    def num_elements(self) -> int:
        """Number of elements that it fills."""
        if self.rows is None:
            return math.prod(self.shape)
        return len(self.rows) * math.prod(self.shape[1:])


def dtype_of(held: Held) -> torch.dtype:
    """Return the dtype of a tensor in memory or in a file."""
    if isinstance(held, Tensor):
        return held.dtype
    found: torch.dtype = getattr(torch, held.dtype)
    return found


def value_of(held: Held) -> Tensor:
    """Return a tensor's value, read from its file if it is there."""
    return held if isinstance(held, Tensor) else held.read()


def weight_of(name: str, held: Held) -> Weight:
    """Return a source's tensor, as it is, under the name it has there."""
    return Weight(
        shape=tuple(held.shape),
        dtype=dtype_of(held),
        origins=(name,),
        read=lambda: value_of(held),
        stored=None if isinstance(held, Tensor) else held,
    )


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


def offer_of(tensors: Mapping[str, Held]) -> Offer:
    """Return a source's tensors, before any rule."""
    return Offer({name: weight_of(name, tensor) for name, tensor in tensors.items()}, {})
