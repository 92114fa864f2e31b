"""Bring sources into a model: plan, check, and only then copy.

The model is either filled as reported or untouched. Nothing is resized and no parameter replaced, so
optimizers that already hold the parameters stay right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from linnaeus.errors import IncompatibleWeightsError, StitchError
from linnaeus.pretrained._account import account, claims_of
from linnaeus.pretrained._copying import copy_all
from linnaeus.pretrained._fit import Fit, Source, fit
from linnaeus.pretrained._heads import missing_heads, unmapped_heads
from linnaeus.pretrained._keep import remember, report_of
from linnaeus.pretrained._plan import Joint, Plan, plan
from linnaeus.pretrained._report import LoadReport, SourceReport
from linnaeus.pretrained._sources import require_readable
from linnaeus.pretrained._targets import Targets, Wishes, require_memory, targets_of, wishes_of
from linnaeus.pth import collection_paused

logger = logging.getLogger("linnaeus.pretrained")

MAX_CONFLICTS = 6


@collection_paused()
def transfer(
    sources: Sequence[Source],
    model: nn.Module,
    *,
    joints: Sequence[Joint] = (),
    min_coverage: float,
    targets: Targets | None = None,
) -> LoadReport:
    """Bring sources into a model.

    Args:
        sources: What to load.
        model: The model.
        targets: Its tensors, where they are known already.
        joints: Widths that must be the same, by source.
        min_coverage: Share of what each source claims, and of all of it, that must arrive.

    Returns:
        What arrived; also kept with the model, for the checkpoints of its run.

    Raises:
        IncompatibleWeightsError: See `load_pretrained`; the model is untouched.
    """
    started = time.perf_counter()
    targets = targets or targets_of(model)
    made, report, wishes = _planned(require_readable(list(sources)), model, targets, joints, min_coverage)
    _require(made, report, wishes)
    require_memory(targets)
    num_bytes = copy_all(made.copies.values())
    seconds = time.perf_counter() - started
    report = replace(report, notes=(*report.notes, *_overwritten(model, report)))
    remember(model, report)
    logger.info("pretrained: %s (%d bytes in %.2f s)", report.summary(), num_bytes, seconds)
    return report


@collection_paused()
def rehearse(
    sources: Sequence[Source], model: nn.Module, *, joints: Sequence[Joint] = (), min_coverage: float
) -> LoadReport:
    """Return the report that `transfer` would give, with its conflicts, without touching the model.

    The model may be on the meta device; no tensor of a source is read but those of which values decide.
    """
    _, report, wishes = _planned(sources, model, targets_of(model), joints, min_coverage)
    strict = _not_strict(report) if wishes.strict else ()
    return replace(report, conflicts=(*report.conflicts, *strict))


def _planned(
    sources: Sequence[Source],
    model: nn.Module,
    targets: Targets,
    joints: Sequence[Joint],
    min_coverage: float,
) -> tuple[Plan, LoadReport, Wishes]:
    wishes = wishes_of(model)
    found: Fit = fit(sources, targets, wishes)
    made = plan(found, wishes, joints)
    claims = claims_of(found, targets, wishes)
    report = account(model, targets, found, made, claims, min_coverage=min_coverage)
    fresh_heads = [a.name for a in report.arrivals if a.is_head and a.status == "fresh"]
    shapes = {name: target.shape for name, target in found.view.items()}
    by_class = [copy.name for copy in made.copies.values() if copy.weight.rows is not None]
    unmet = [
        why
        for policy in dict.fromkeys(source.heads for source in sources)
        for why in (*missing_heads(policy, fresh_heads), *unmapped_heads(policy, shapes, by_class))
    ]
    return made, replace(report, conflicts=(*report.conflicts, *unmet)), wishes


def _require(made: Plan, report: LoadReport, wishes: Wishes) -> None:
    """Refuse a plan that would not do what was asked."""
    if made.seams:
        problem = f"its sources do not make one model ({len(made.seams)})"
        raise _refused(report, problem, made.seams, kind=StitchError)
    conflicts = [*report.conflicts, *(_not_strict(report) if wishes.strict else [])]
    if conflicts:
        raise _refused(
            report, f"the model would not be what the weights are for ({len(conflicts)})", conflicts
        )
    if not report.num_claimed:
        raise _refused(report, "the model has nothing that they could fill", [])
    short = [source for source in report.sources if source.coverage < report.min_coverage]
    if short:
        raise _refused(report, f"too little of it would arrive: {_shares(short, report)}", [])


def _not_strict(report: LoadReport) -> list[str]:
    fresh = [f"nothing for {a.name}" for a in report.arrivals if a.status == "fresh"]
    unused = [f"no place for {u.name} ({u.reason})" for u in report.unused]
    return [*fresh, *unused]


def _shares(short: Iterable[SourceReport], report: LoadReport) -> str:
    shares = (f"{s.coverage:.1%} of {s.num_claimed:,} parameters from {s.identifier}" for s in short)
    return f"{' and '.join(shares)}, at least {report.min_coverage:.1%} asked for"


def _refused(
    report: LoadReport,
    problem: str,
    conflicts: Sequence[str],
    kind: type[IncompatibleWeightsError] = IncompatibleWeightsError,
) -> IncompatibleWeightsError:
    more = len(conflicts) - MAX_CONFLICTS
    shown = conflicts if more <= 0 else [*conflicts[:MAX_CONFLICTS], f"and {more} more like these"]
    return kind(
        path=" and ".join(source.path for source in report.sources),
        problem=problem,
        advice="The model is untouched. MODEL.PRETRAINED_MIN_COVERAGE says how much must arrive.",
        details=[*shown, *report.problems(), *report.notes],
    )


def _overwritten(model: nn.Module, report: LoadReport) -> Iterable[str]:
    """Tell when weights replace those of an earlier load: whoever loads twice seldom means to."""
    before = report_of(model)
    if before is None:
        return
    filled = {a.name for a in before.arrivals if a.status != "fresh"}
    again = [a for a in report.arrivals if a.status != "fresh" and a.name in filled]
    if again:
        names = " and ".join(source.identifier for source in before.sources)
        count = sum(a.num_elements for a in again if a.is_parameter)
        yield f"{count:,} parameters that {names} had filled before were overwritten"
