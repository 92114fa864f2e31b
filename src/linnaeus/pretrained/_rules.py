"""What a rule is, and the rules for names: each takes what a source offers and returns another offer.

Rules are pure and applied in order. Patterns and templates match a whole name, prefixes are prefixes: none
is ever searched for inside a name. A rule that leaves out or takes apart never touches what the model has a
place for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from linnaeus.pretrained._weights import Offer, Shapes, Weight


class Rule(Protocol):
    """One step from a source's names and tensors to a model's."""

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer after this rule; `target` has the model's shapes by name."""
        ...

    def inverse(self) -> Rule | None:
        """Return the rule that undoes this one, or None where there can be none."""
        ...


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules for one kind of source.

    Attributes:
        name: Its name.
        detect: Names that tell this kind of source: it has all of them.
        rules: What to do, in order.
        dialect: Whether it only spells in another way what the rules of some other kind are about; then it is
            also undone for a model that spells so.
    """

    name: str
    detect: frozenset[str]
    rules: tuple[Rule, ...]
    dialect: bool = False

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer after all rules."""
        for rule in self.rules:
            offer = rule.apply(offer, target)
        return offer

    def inverse(self) -> RuleSet | None:
        """Return the rules that undo these, in the other order; None when one can't be undone."""
        undone = [rule.inverse() for rule in reversed(self.rules)]
        known = tuple(rule for rule in undone if rule is not None)
        if len(known) < len(undone):
            return None
        return RuleSet(f"{self.name}, undone", frozenset(), known)


@dataclass(frozen=True, slots=True)
class Rename:
    """Give names that match a pattern another name.

    Attributes:
        match: What a whole name must match.
        to: The new name; may use what the pattern captured.
        back: The same for the way back, where there is one.
    """

    match: re.Pattern[str]
    to: str
    back: tuple[re.Pattern[str], str] | None = None

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

    def inverse(self) -> Rename | None:
        """Return the renaming back; None for a bare pattern, which may lose what it does not capture."""
        return Rename(*self.back, back=(self.match, self.to)) if self.back else None


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave out weights that the model has no place for, and say why."""

    match: re.Pattern[str]
    why: str

    def apply(self, offer: Offer, target: Shapes) -> Offer:
        """Return the offer without the names that match, but for those that the model has."""
        out = [name for name in offer.weights if self.match.fullmatch(name) and name not in target]
        return without(offer, out, self.why)

    def inverse(self) -> None:
        """Return None: what is left out is gone."""


def without(offer: Offer, names: Iterable[str], why: str) -> Offer:
    """Return the offer without some of its names, and the reason kept by their origins."""
    out = set(names)
    left = dict(offer.left)
    left.update({origin: why for name in out for origin in offer.weights[name].origins})
    kept = {name: weight for name, weight in offer.weights.items() if name not in out}
    return replace(offer, weights=kept, left=left)


def dropped(offer: Offer, prefixes: Iterable[str], why: str) -> Offer:
    """Return the offer without the names that begin with one of the prefixes."""
    begins = tuple(prefixes)
    if not begins:
        return offer
    return without(offer, [name for name in offer.weights if name.startswith(begins)], why)
