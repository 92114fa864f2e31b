"""The rules that change tensors: split, merge, transpose, index into layers, fold, and what RoPE needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from linnaeus.pretrained._adapters import (
    axial_weight,
    chunk,
    folded,
    joined,
    permuted,
    sliced,
    stacked,
    unit_scale,
    viewed,
)
from linnaeus.pretrained._template import Template
from linnaeus.pretrained._weights import Offer, Shape, Shapes, Weight


@dataclass(frozen=True, slots=True)
class Split:
    """Split a tensor into equal parts along a dimension: qkv into q, k and v."""

    name: Template
    parts: tuple[Template, ...]
    dim: int

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the parts in place of each whole that the model has no place for."""
        weights: dict[str, Weight] = {}
        conflicts = list(offer.conflicts)
        for name, weight in offer.weights.items():
            values = self.name.read(name)
            if values is None or name in target:
                weights[name] = weight
            elif self.dim >= len(weight.shape) or weight.shape[self.dim] % len(self.parts):
                conflicts.append(f"{name} {weight.shape} can't be split into {len(self.parts)} equal parts")
            else:
                for index, part in enumerate(self.parts):
                    weights[part.write(values)] = chunk(weight, dim=self.dim, index=index, of=len(self.parts))
        return replace(offer, weights=weights, conflicts=tuple(conflicts))

    def inverse(self) -> Merge:
        """Return the rule that puts the parts together again."""
        return Merge(self.parts, self.name, self.dim)


@dataclass(frozen=True, slots=True)
class Merge:
    """Put tensors together along a dimension: q, k and v into qkv."""

    parts: tuple[Template, ...]
    name: Template
    dim: int

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the whole in place of its parts, where all are there, none in the model."""
        weights: dict[str, Weight] = {}
        done: set[str] = set()
        for name, weight in offer.weights.items():
            names = self._names(name)
            if not names or any(part not in offer.weights or part in target for part in names):
                weights[name] = weight
            elif names[0] not in done:
                done.add(names[0])
                whole = joined([offer.weights[part] for part in names], dim=self.dim)
                values = self.parts[0].read(names[0])
                weights[self.name.write(values or {})] = whole
        return replace(offer, weights=weights)

    def _names(self, name: str) -> list[str]:
        """Return the names of all parts of the whole that a name is a part of; none for other names."""
        for part in self.parts:
            values = part.read(name)
            if values is not None:
                return [other.write(values) for other in self.parts]
        return []

    def inverse(self) -> Split:
        """Return the rule that takes the whole apart again."""
        return Split(self.name, self.parts, self.dim)


@dataclass(frozen=True, slots=True)
class Transpose:
    """Put the dimensions of a tensor into another order."""

    name: Template
    dims: tuple[int, ...]

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the tensors that match turned."""
        weights = {
            name: permuted(weight, self.dims) if self._turns(name, weight) else weight
            for name, weight in offer.weights.items()
        }
        return replace(offer, weights=weights)

    def _turns(self, name: str, weight: Weight) -> bool:
        return self.name.read(name) is not None and len(weight.shape) == len(self.dims)

    def inverse(self) -> Transpose:
        """Return the rule that turns them back."""
        return Transpose(self.name, tuple(self.dims.index(dim) for dim in range(len(self.dims))))


@dataclass(frozen=True, slots=True)
class Layers:
    """Index one tensor along a dimension into one for each layer: `freqs` into `blocks.{index}.freqs`.

    Each part is viewed in the shape that the model has for it, (2, heads, head_dim // 2), unless it is
    known that the source has another number of heads (`heads_by_width`, the width being 2 * the part's).
    """

    name: str
    to: Template
    dim: int
    heads_by_width: Mapping[int, int] = field(default_factory=dict)

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the parts in place of the whole; the whole stays where the model has it."""
        whole = offer.weights.get(self.name)
        if whole is None or self.name in target or len(whole.shape) <= self.dim:
            return offer
        weights = {name: weight for name, weight in offer.weights.items() if name != self.name}
        conflicts: list[str] = []
        for index in range(whole.shape[self.dim]):
            name = self.to.write({"index": str(index)})
            shape = self._shape(whole, target.get(name))
            weights[name] = sliced(whole, dim=self.dim, index=index, shape=shape)
            conflicts += self._conflict(whole, name, target.get(name))
        return replace(offer, weights=weights, conflicts=(*offer.conflicts, *conflicts))

    def _shape(self, whole: Weight, wanted: Shape | None) -> Shape:
        part = (*whole.shape[: self.dim], *whole.shape[self.dim + 1 :])
        fits = wanted and len(wanted) == len(part) + 1 and wanted[-2] * wanted[-1] == part[-1]
        return wanted if wanted and fits and wanted[: len(part) - 1] == part[:-1] else part

    def _conflict(self, whole: Weight, name: str, wanted: Shape | None) -> Iterable[str]:
        heads = self.heads_by_width.get(2 * whole.shape[-1])
        if heads and wanted and len(wanted) == len(whole.shape) and wanted[-2] != heads:
            yield f"{name}: {heads} heads in the source, {wanted[-2]} in the model"

    def inverse(self) -> Stack:
        """Return the rule that stacks the layers' tensors again."""
        return Stack(self.to, self.name, self.dim)


@dataclass(frozen=True, slots=True)
class Stack:
    """Stack the tensors of all layers into one: `blocks.{index}.freqs` into `freqs`."""

    parts: Template
    name: str
    dim: int

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the whole in place of its parts, where these are all layers, from 0 on."""
        found = {
            int(values["index"]): name
            for name in offer.weights
            if (values := self.parts.read(name)) and values["index"].isdecimal()
        }
        names = [found[index] for index in sorted(found)]
        if not names or sorted(found) != list(range(len(found))) or any(name in target for name in names):
            return offer
        parts = [offer.weights[name] for name in names]
        if len({part.shape for part in parts}) > 1:
            return offer
        weights = {name: weight for name, weight in offer.weights.items() if name not in names}
        weights[self.name] = stacked(parts, dim=self.dim, shape=target.get(self.name))
        return replace(offer, weights=weights)

    def inverse(self) -> Layers:
        """Return the rule that indexes the whole again."""
        return Layers(self.name, self.parts, self.dim)


@dataclass(frozen=True, slots=True)
class View:
    """Give a tensor another name, and the shape that the model has for it: `freqs` with its heads apart.

    Only where the model has that name and as many elements, and the source has not another number of heads.
    """

    name: str
    to: str
    heads_by_width: Mapping[int, int] = field(default_factory=dict)

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the tensor as the model wants it, if it has not the first name."""
        weight, wanted = offer.weights.get(self.name), target.get(self.to)
        if weight is None or wanted is None or self.name in target or self.to in offer.weights:
            return offer
        if math.prod(wanted) != weight.num_elements:
            return offer
        heads = self.heads_by_width.get(2 * weight.shape[-1])
        conflicts = offer.conflicts
        if heads and wanted[-2] != heads:
            conflicts = (*conflicts, f"{self.to}: {heads} heads in the source, {wanted[-2]} in the model")
        weights = {name: other for name, other in offer.weights.items() if name != self.name}
        weights[self.to] = viewed(weight, wanted)
        return replace(offer, weights=weights, conflicts=conflicts)

    def inverse(self) -> View:
        """Return the rule that views it the other way."""
        return View(self.to, self.name)


@dataclass(frozen=True, slots=True)
class Fold:
    """Fold a scale (LayerScale) into the linear map that it scales, when the model has no such scale.

    Where the model has a scale and the source has none, it becomes one.
    """

    scale: re.Pattern[str]
    into: tuple[str, ...]

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with scales folded, kept, or set to one, as the model wants them."""
        weights = dict(offer.weights)
        for name in offer.weights:
            found = self.scale.fullmatch(name)
            if found and name not in target:
                self._fold(weights, name, found)
        for name in target:
            found = self.scale.fullmatch(name)
            if found and name not in weights and found.expand(self.into[0]) in weights:
                weights[name] = unit_scale(target[name])
        return replace(offer, weights=weights)

    def _fold(self, weights: dict[str, Weight], name: str, found: re.Match[str]) -> None:
        scaled = [expanded for into in self.into if (expanded := found.expand(into)) in weights]
        if not scaled:
            return
        gamma = weights.pop(name)
        for other in scaled:
            weights[other] = folded(weights[other], gamma)

    def inverse(self) -> None:
        """Return None: a product does not tell its factors."""


@dataclass(frozen=True, slots=True)
class AxialFrequencies:
    """Add axial rotary frequencies that the source has in its code only; `beside` names what it must have.

    With `retune`, a model that turns by constants of another base takes the source's.
    """

    to: re.Pattern[str]
    beside: str
    theta: float
    retune: bool = False

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with frequencies for every place in the model that got none."""
        weights = dict(offer.weights)
        for name, shape in target.items():
            found = self.to.fullmatch(name)
            if found and name not in weights and found.expand(self.beside) in weights and len(shape) == 3:
                weights[name] = axial_weight(shape, theta=self.theta, retune=self.retune)
        return replace(offer, weights=weights)

    def inverse(self) -> None:
        """Return None: it adds what the source never had."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Mark weights that a model may hold as constants: then it must agree with them already."""

    match: re.Pattern[str]
    what: str

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the names that match marked."""
        weights = {
            name: replace(weight, constant=self.what) if self._marks(name, weight) else weight
            for name, weight in offer.weights.items()
        }
        return replace(offer, weights=weights)

    def _marks(self, name: str, weight: Weight) -> bool:
        return weight.constant is None and self.match.fullmatch(name) is not None

    def inverse(self) -> Constant:
        """Return itself: a mark changes no tensor."""
        return self
