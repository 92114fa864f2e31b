"""From a plan to its report: what becomes of every tensor of the model and of every source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from linnaeus.pretrained._fit import Fit, Fitted
from linnaeus.pretrained._hints import nearest_names
from linnaeus.pretrained._plan import NO_PLACE, Copy, Plan
from linnaeus.pretrained._report import Arrival, LoadReport, Mismatch, SourceReport, Unused
from linnaeus.pretrained._targets import Target, Targets, Wishes, head_names
from linnaeus.pretrained._unwrap import AVERAGED
from linnaeus.pretrained._weights import Shape


@dataclass(frozen=True, slots=True)
class Claims:
    """Who is to fill what: by the first name of the model's tensors, the names of sources."""

    heads: frozenset[str]
    by_source: dict[str, frozenset[str]]

    def claimants(self, name: str) -> tuple[str, ...]:
        """Return the sources that are to fill it."""
        return tuple(source for source, claimed in self.by_source.items() if name in claimed)


def claims_of(fit: Fit, targets: Targets, wishes: Wishes) -> Claims:
    """Return what each source is to fill: what it claims, but for heads and what the model drops."""
    heads = head_names(targets, fit.view)
    by_source = {
        fitted.source.name: frozenset(
            target.name
            for name, target in fit.view.items()
            if _claims(fitted, name, wishes) and target.name not in heads
        )
        for fitted in fit.fitted
    }
    return Claims(heads, by_source)


def _claims(fitted: Fitted, name: str, wishes: Wishes) -> bool:
    if fitted.source.claims is None:
        return not name.startswith(wishes.dropped)
    return fitted.source.may_fill(name)


def account(
    model: nn.Module, targets: Targets, fit: Fit, made: Plan, claims: Claims, *, min_coverage: float
) -> LoadReport:
    """Report what a plan does.

    Args:
        model: The model.
        targets: Its tensors.
        fit: The sources under its names.
        made: The plan.
        claims: Who is to fill what.
        min_coverage: The share that is asked for.
    """
    arrivals = tuple(_arrival(target, made.copies.get(target.name), claims) for target in targets.first)
    missing = {a.name: a.shape for a in arrivals if a.status == "fresh"}
    return LoadReport(
        model=type(model).__name__,
        sources=tuple(_source(fitted, made, arrivals, claims) for fitted in fit.fitted),
        arrivals=arrivals,
        unused=tuple(unused for fitted in fit.fitted for unused in _unused(fitted, made, missing)),
        mismatches=tuple(made.mismatches),
        notes=(*_containers(fit.fitted), *_fresh_heads(arrivals, made.mismatches)),
        conflicts=(*made.seams, *made.conflicts),
        min_coverage=min_coverage,
    )


def _arrival(target: Target, copy: Copy | None, claims: Claims) -> Arrival:
    weight = copy.weight if copy else None
    claimants = claims.claimants(target.name)
    partial = weight is not None and weight.rows is not None
    return Arrival(
        name=target.name,
        shape=target.shape,
        status="fresh" if weight is None else "adapted" if weight.adapted else "loaded",
        is_parameter=target.is_parameter,
        is_head=target.name in claims.heads,
        claimed=bool(claimants),
        claimants=claimants,
        source=copy.source if copy else None,
        origins=weight.origins if weight else (),
        note=weight.adapted if weight else None,
        num_filled=weight.num_elements if weight and partial else None,
    )


def _used(fitted: Fitted, made: Plan) -> set[str]:
    copies = (copy for copy in made.copies.values() if copy.source == fitted.source.name)
    return {origin for copy in copies for origin in copy.weight.origins}


def _source(fitted: Fitted, made: Plan, arrivals: Iterable[Arrival], claims: Claims) -> SourceReport:
    source, unwrapped = fitted.source, fitted.source.unwrapped
    claimed = [a for a in arrivals if a.is_parameter and a.name in claims.by_source[source.name]]
    return SourceReport(
        name=source.name,
        identifier=source.identifier,
        path=source.path,
        container=unwrapped.container,
        prefix="".join(fitted.chain),
        rules=fitted.rules,
        num_tensors=len(unwrapped.tensors),
        num_used=len(_used(fitted, made)),
        num_claimed=sum(a.num_elements for a in claimed),
        num_arrived=sum(a.num_arrived for a in claimed if a.source == source.name),
    )


def _unused(fitted: Fitted, made: Plan, missing: dict[str, Shape]) -> Iterable[Unused]:
    source, tensors, used = fitted.source, fitted.source.unwrapped.tensors, _used(fitted, made)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in used}
    reasons = _reasons(fitted, made)
    strangers = {name: shape for name, shape in shapes.items() if reasons.get(name, NO_PLACE) == NO_PLACE}
    nearest = nearest_names(strangers, missing) if missing else {}
    for name, shape in shapes.items():
        yield Unused(
            source=source.name,
            name=name,
            shape=shape,
            reason=reasons.get(name, NO_PLACE),
            nearest=nearest.get(name),
        )


def _reasons(fitted: Fitted, made: Plan) -> dict[str, str]:
    reasons = dict(made.left[fitted.source.name])
    for mismatch in made.mismatches:
        if mismatch.source == fitted.source.name:
            reasons.update(dict.fromkeys(mismatch.origins, "another shape in the model"))
    return reasons


def _containers(fitted: Iterable[Fitted]) -> Iterable[str]:
    """Tell which weights of a file were taken where there are several, and when they are averaged ones."""
    for one in fitted:
        unwrapped = one.source.unwrapped
        if unwrapped.container.rpartition(".")[2] in AVERAGED:
            yield f"{one.source.path}: the averaged weights (EMA) under {unwrapped.container!r} are taken"
        if unwrapped.others:
            yield f"{one.source.path} also has weights under {', '.join(unwrapped.others)}: not taken"


def _fresh_heads(arrivals: Iterable[Arrival], mismatches: Iterable[Mismatch]) -> Iterable[str]:
    other = {mismatch.name: mismatch for mismatch in mismatches}
    fresh = [a.name for a in arrivals if a.is_head and a.status == "fresh"]
    if fresh:
        names = (f"{n} ({other[n].source_shape} there)" if n in other else n for n in fresh)
        yield f"heads are fresh: {', '.join(names)}"
