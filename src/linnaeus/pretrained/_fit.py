"""Bring a source's names to the model's: strip prefixes on both sides by what fits best, apply the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from linnaeus.pretrained._heads import HeadPolicy
from linnaeus.pretrained._rules import RuleSet, dropped
from linnaeus.pretrained._targets import Target, Targets, Wishes
from linnaeus.pretrained._unwrap import PREFIXES, Unwrapped, prefix_chains, strip, stripped
from linnaeus.pretrained._weights import Offer, Shapes, Weight, weight_of

View = Mapping[str, Target]
Chain = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One checkpoint as a contributor to a model.

    Attributes:
        name: What it is called in reports: a recipe's source, or `pretrained`.
        identifier: What the config says.
        path: The file.
        unwrapped: Its tensors.
        rules: Rule sets for it; of those whose names it has, the first of each sort is applied.
        own_rules: Rules that are applied to it after those, whatever its names.
        claims: Prefixes of the model's names that it may fill; None for all.
        heads: What happens to its heads.
    """

    name: str
    identifier: str
    path: str
    unwrapped: Unwrapped
    rules: tuple[RuleSet, ...] = ()
    own_rules: RuleSet | None = None
    claims: tuple[str, ...] | None = None
    heads: HeadPolicy = field(default_factory=HeadPolicy)

    def may_fill(self, name: str) -> bool:
        """Tell whether it may fill what has this name in the model, wrappers' prefixes stripped."""
        return self.claims is None or name.startswith(self.claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A source under the model's names.

    Attributes:
        source: The source.
        chain: The prefixes that were stripped from its names.
        rules: The names of the rule sets that were applied, or None.
        offer: What it has for the model.
    """

    source: Source
    chain: Chain
    rules: str | None
    offer: Offer

    def score(self, view: View) -> int:
        """Return how many elements find a place of their shape."""
        weights = self.offer.weights.items()
        fitting = (w.num_elements for name, w in weights if name in view and view[name].shape == w.shape)
        return sum(fitting)


@dataclass(frozen=True, slots=True)
class Fit:
    """All sources under the model's names; `view` has the model's tensors by those names."""

    fitted: tuple[Fitted, ...]
    view: View


def fit(sources: Sequence[Source], targets: Targets, wishes: Wishes) -> Fit:
    """Find the prefixes to strip from the model's and each source's names so that most of it fits.

    Args:
        sources: The sources.
        targets: The model's tensors.
        wishes: What the model says of loading.

    Returns:
        The best fit; of equally good ones that with the fewest prefixes stripped.
    """
    fits = [_fit_view(sources, view, wishes) for view in views(targets)]
    return max(fits, key=lambda found: sum(fitted.score(found.view) for fitted in found.fitted))


def views(targets: Targets) -> list[View]:
    """Return the model's tensors by name, for each chain of prefixes that its names could be without."""
    chains = prefix_chains(targets.names)
    found = [{strip(name, chain): target for name, target in targets.names.items()} for chain in chains]
    return [view for view in found if len(view) == len(targets.names)]


def _fit_view(sources: Sequence[Source], view: View, wishes: Wishes) -> Fit:
    return Fit(tuple(_best(source, view, wishes) for source in sources), view)


def _best(source: Source, view: View, wishes: Wishes) -> Fitted:
    shapes = {name: target.shape for name, target in view.items()}
    prefixes = PREFIXES if wishes.module_prefix else tuple(p for p in PREFIXES if p != "module.")
    chains = list(prefix_chains(source.unwrapped.tensors, prefixes))
    found = [_fitted(source, chain, shapes, wishes) for chain in chains]
    return found[0] if len(found) == 1 else max(found, key=lambda fitted: fitted.score(view))


def _fitted(source: Source, chain: Chain, shapes: Shapes, wishes: Wishes) -> Fitted:
    tensors = source.unwrapped.tensors
    names = stripped(tensors, chain)
    offer = Offer({name: weight_of(origin, tensors[origin]) for name, origin in names.items()}, {})
    if source.claims is None:  # what a recipe claims, a model's own wishes do not take away again
        offer = dropped(offer, wishes.dropped, "the model asks for it to be dropped")
    offer, applied = _ruled(offer, source, shapes)
    offer = source.heads.apply(offer, shapes, source.may_fill)
    return Fitted(
        source=source, chain=chain, rules=", ".join(rules.name for rules in applied) or None, offer=offer
    )


def _ruled(offer: Offer, source: Source, shapes: Shapes) -> tuple[Offer, list[RuleSet]]:
    """Apply the rules for what the source is, in the names that those rules are about.

    A dialect is translated first on the source's side, and translated back for a model that speaks it.
    """
    applied = []
    spoken, undo, wanted = _dialect_of(source.rules, shapes)
    dialect = _detected(source.rules, offer.weights, dialect=True)
    if dialect is not None:
        offer = dialect.apply(offer, {})
        applied.append(dialect)
    kind = _detected(source.rules, offer.weights, dialect=False)
    if kind is not None:
        offer = kind.apply(offer, wanted)
        applied.append(kind)
    if undo is not None and spoken is not None and (dialect or kind):
        offer = undo.apply(offer, {})
        applied = [] if dialect is spoken and kind is None else [*applied, undo]
    if source.own_rules is not None:
        offer = source.own_rules.apply(offer, shapes)
        applied.append(source.own_rules)
    return offer, applied


def _detected(rules: Sequence[RuleSet], names: Mapping[str, object], *, dialect: bool) -> RuleSet | None:
    found = (one for one in rules if one.dialect == dialect and one.detect <= names.keys())
    return next(found, None)


def _dialect_of(rules: Sequence[RuleSet], shapes: Shapes) -> tuple[RuleSet | None, RuleSet | None, Shapes]:
    """Return the dialect that the model speaks, how to get there, and the model's shapes without it."""
    spoken = _detected(rules, shapes, dialect=True)
    undo = spoken.inverse() if spoken else None
    if spoken is None or undo is None:
        return None, None, shapes
    plain = spoken.apply(Offer({name: _shape_only(shape) for name, shape in shapes.items()}, {}), {})
    return spoken, undo, {name: weight.shape for name, weight in plain.weights.items()}


def _shape_only(shape: tuple[int, ...]) -> Weight:
    return Weight(
        shape=shape, dtype=torch.float32, origins=("",), read=lambda: torch.empty(shape, device="meta")
    )
