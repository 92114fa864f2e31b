"""The kinds of rule: each takes what a source offers and a model's shapes, and returns another offer.

Rules are pure and applied in order. Patterns match a whole name, prefixes are prefixes: neither is ever
searched for inside a name. A rule never takes away what the model has a place for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from linnaeus.pretrained._adapters import axial_weight, folded, sliced, summed_channels, unit_scale
from linnaeus.pretrained._weights import Offer, Shape, Shapes, Weight


class Rule(Protocol):
    """One step from a source's names and tensors to a model's."""

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer after this rule; `target` has the model's shapes by name."""
        ...


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules for one kind of source.

    Attributes:
        name: Its name.
        detect: Names that tell this kind of source: it has all of them.
        rules: What to do, in order.
    """

    name: str
    detect: frozenset[str]
    rules: tuple[Rule, ...]

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer after all rules."""
        for rule in self.rules:
            offer = rule.apply(offer, target)
        return offer


@dataclass(frozen=True, slots=True)
class Rename:
    """Give names that match a pattern another name; `to` may use what the pattern captured."""

    match: re.Pattern[str]
    to: str

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer under the new names; two weights of one name are a conflict."""
        named: dict[str, Weight] = {}
        conflicts = list(offer.conflicts)
        for name, weight in offer.weights.items():
            found = self.match.fullmatch(name)
            new = found.expand(self.to) if found else name
            if new in named:
                conflicts.append(f"{name} and {named[new].origins[0]} would both become {new}")
            named[new] = weight
        return replace(offer, weights=named, conflicts=tuple(conflicts))


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave out weights that the model has no place for, and say why."""

    match: re.Pattern[str]
    why: str

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer without the names that match, but for those that the model has."""
        out = [name for name in offer.weights if self.match.fullmatch(name) and name not in target]
        return _without(offer, out, self.why)


@dataclass(frozen=True, slots=True)
class Split:
    """Split one tensor along a dimension into one for each block: `blocks.{index}.freqs`.

    Each part is viewed in the shape that the model has for it, (2, heads, head_dim // 2), unless it is
    known that the source has another number of heads (`heads_by_width`, the width being 2 * the part's).
    """

    name: str
    dim: int
    to: str
    heads_by_width: Mapping[int, int] = field(default_factory=dict)

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the parts in place of the whole; the whole stays where the model has it."""
        whole = offer.weights.get(self.name)
        if whole is None or self.name in target or len(whole.shape) <= self.dim:
            return offer
        weights = {name: weight for name, weight in offer.weights.items() if name != self.name}
        conflicts: list[str] = []
        for index in range(whole.shape[self.dim]):
            name = self.to.format(index=index)
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


@dataclass(frozen=True, slots=True)
class InputChannels:
    """Sum the first convolution over its input channels for a model that takes gray images."""

    match: re.Pattern[str]

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with three input channels made one where the model has one."""
        weights = {
            name: summed_channels(weight) if self._sums(name, weight, target.get(name)) else weight
            for name, weight in offer.weights.items()
        }
        return replace(offer, weights=weights)

    def _sums(self, name: str, weight: Weight, wanted: Shape | None) -> bool:
        if len(weight.shape) < 2 or weight.shape[1] != 3 or not self.match.fullmatch(name):
            return False
        return wanted == (weight.shape[0], 1, *weight.shape[2:])


@dataclass(frozen=True, slots=True)
class AxialFrequencies:
    """Add axial rotary frequencies that the source has in its code only; `beside` names what it must have."""

    to: re.Pattern[str]
    beside: str
    theta: float

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with frequencies for every place in the model that got none."""
        weights = dict(offer.weights)
        for name, shape in target.items():
            found = self.to.fullmatch(name)
            if found and name not in weights and found.expand(self.beside) in weights and len(shape) == 3:
                weights[name] = axial_weight(shape, theta=self.theta)
        return replace(offer, weights=weights)


@dataclass(frozen=True, slots=True)
class Constant:
    """Mark weights that a model may hold as constants: then it must agree with them already."""

    match: re.Pattern[str]
    what: str

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer with the names that match marked."""
        weights = {
            name: replace(weight, constant=self.what) if self.match.fullmatch(name) else weight
            for name, weight in offer.weights.items()
        }
        return replace(offer, weights=weights)


def _without(offer: Offer, names: Iterable[str], why: str) -> Offer:
    out = set(names)
    left = dict(offer.left)
    left.update({origin: why for name in out for origin in offer.weights[name].origins})
    kept = {name: weight for name, weight in offer.weights.items() if name not in out}
    return replace(offer, weights=kept, left=left)


def dropped(offer: Offer, prefixes: Iterable[str], why: str) -> Offer:
    """Return the offer without the names that begin with one of the prefixes."""
    begins = tuple(prefixes)
    return (
        _without(offer, [name for name in offer.weights if name.startswith(begins)], why) if begins else offer
    )
