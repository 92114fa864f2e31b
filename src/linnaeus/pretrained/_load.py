"""Load pretrained weights: resolve, read, plan, check, and only then copy.

The model is either filled as reported or untouched. Nothing is resized and no parameter replaced, so
optimizers that already hold the parameters stay right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from linnaeus.config import Config
from linnaeus.errors import IncompatibleWeightsError
from linnaeus.pretrained._account import account, claims_of
from linnaeus.pretrained._choose import Choice, choose
from linnaeus.pretrained._fit import Source, fit
from linnaeus.pretrained._plan import Copy, Plan, plan
from linnaeus.pretrained._report import Arrival, LoadReport, SourceReport
from linnaeus.pretrained._rulebook import RULE_SETS, STITCHED, Recipe, Width, packaged_recipe, packaged_rules
from linnaeus.pretrained._targets import Targets, Wishes, require_memory, targets_of, wishes_of
from linnaeus.pretrained._unwrap import unwrap
from linnaeus.pth import load
from linnaeus.resolving import resolve

logger = logging.getLogger(__name__)

MAX_CONFLICTS = 6


def load_pretrained(cfg: Config, model: nn.Module) -> LoadReport:
    """Load the pretrained weights that a config names into a model.

    MODEL.PRETRAINED fills a model of any kind; MODEL.PRETRAINED_CONVNEXT and MODEL.PRETRAINED_ROPEVIT are
    stitched into a hybrid one. Each name is resolved, and fetched where needed. Call on every rank that holds
    the model.

    Args:
        cfg: The config.
        model: The model, on a real device. Its parameters are overwritten in place, in their own dtype.

    Returns:
        What arrived; with no `sources` when none are configured.

    Raises:
        ConfigError: The keys contradict one another.
        CheckpointNotFoundError: A name can't be resolved.
        IncompatibleWeightsError: Less than MODEL.PRETRAINED_MIN_COVERAGE of what a source should fill
            would be filled, or the function would change. The model is untouched.
    """
    targets = targets_of(model)
    recipe = packaged_recipe(STITCHED)
    choice = choose(cfg, recipe, targets)
    sources = _sources(choice, recipe, cfg)
    if not sources:
        return _nothing(model, targets)
    joint = recipe.joint if choice.parts else {}
    report = transfer(sources, model, joint=joint, min_coverage=cfg.MODEL.PRETRAINED_MIN_COVERAGE)
    return replace(report, notes=(*report.notes, *choice.notes))


def _sources(choice: Choice, recipe: Recipe, cfg: Config) -> list[Source]:
    if choice.single:
        return [replace(_read("pretrained", choice.single, cfg), rules=tuple(map(packaged_rules, RULE_SETS)))]
    parts = choice.parts or {}
    return [
        replace(_read(part.name, parts[part.name], cfg), rules=(part.rules,), claims=part.claims)
        for part in recipe.parts
        if part.name in parts
    ]


def _read(name: str, identifier: str, cfg: Config) -> Source:
    path = resolve(identifier, cfg)
    return Source(name=name, identifier=identifier, path=str(path), unwrapped=unwrap(load(path), str(path)))


def _nothing(model: nn.Module, targets: Targets) -> LoadReport:
    arrivals = (
        Arrival(name=t.name, shape=t.shape, status="fresh", is_parameter=t.is_parameter, claimed=False)
        for t in targets.first
    )
    report = LoadReport(model=type(model).__name__, arrivals=tuple(arrivals))
    logger.info("%s", report.summary())
    return report


def transfer(
    sources: Sequence[Source], model: nn.Module, *, joint: Mapping[str, Width], min_coverage: float
) -> LoadReport:
    """Bring sources into a model.

    Args:
        sources: What to load, each read already.
        model: The model.
        joint: Widths that must be the same, by source.
        min_coverage: Share of what each source claims, and of all of it, that must arrive.

    Returns:
        What arrived.

    Raises:
        IncompatibleWeightsError: See `load_pretrained`; the model is untouched.
    """
    started = time.perf_counter()
    targets, wishes = targets_of(model), wishes_of(model)
    found = fit(sources, targets, wishes)
    made = plan(found, wishes, joint)
    claims = claims_of(found, targets, wishes)
    report = account(model, targets, found, made, claims, min_coverage=min_coverage)
    _require(made, report, wishes)
    require_memory(targets)
    num_bytes = _copy(made.copies.values())
    seconds = time.perf_counter() - started
    logger.info("pretrained: %s (%d bytes in %.2f s)", report.summary(), num_bytes, seconds)
    return report


def _require(made: Plan, report: LoadReport, wishes: Wishes) -> None:
    """Refuse a plan that would not do what was asked."""
    conflicts = list(made.conflicts) + (_not_strict(report) if wishes.strict else [])
    if conflicts:
        raise _refused(
            report, f"the model would not be what the weights are for ({len(conflicts)})", conflicts
        )
    short = [source for source in report.sources if source.coverage < report.min_coverage]
    if not report.num_claimed:
        raise _refused(report, "the model has nothing that they could fill", [])
    if short:
        raise _refused(report, f"too little of it would arrive: {_shares(short, report)}", [])


def _not_strict(report: LoadReport) -> list[str]:
    fresh = [f"nothing for {a.name}" for a in report.arrivals if a.status == "fresh"]
    unused = [f"no place for {u.name} ({u.reason})" for u in report.unused]
    return [*fresh, *unused]


def _shares(short: Iterable[SourceReport], report: LoadReport) -> str:
    shares = (f"{s.coverage:.1%} of {s.num_claimed:,} parameters from {s.identifier}" for s in short)
    return f"{' and '.join(shares)}, at least {report.min_coverage:.1%} asked for"


def _refused(report: LoadReport, problem: str, conflicts: list[str]) -> IncompatibleWeightsError:
    more = len(conflicts) - MAX_CONFLICTS
    shown = conflicts if more <= 0 else [*conflicts[:MAX_CONFLICTS], f"and {more} more like these"]
    return IncompatibleWeightsError(
        path=" and ".join(source.path for source in report.sources),
        problem=problem,
        advice="The model is untouched. MODEL.PRETRAINED_MIN_COVERAGE says how much must arrive.",
        details=[*shown, *report.problems(), *report.notes],
    )


def _copy(copies: Iterable[Copy]) -> int:
    """Copy the weights and return their bytes as the model holds them."""
    num_bytes = 0
    with torch.no_grad():
        for copy in copies:
            copy.target.tensor.copy_(copy.weight.read())
            num_bytes += copy.target.tensor.nbytes
    return num_bytes
