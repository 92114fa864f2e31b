"""Load pretrained weights as a config or a recipe says, or tell beforehand what would arrive."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from linnaeus import pth
from linnaeus.config import Config
from linnaeus.distributed import Group
from linnaeus.errors import ConfigError
from linnaeus.pretrained._choose import Choice, checkpoints_of, choose, single
from linnaeus.pretrained._fit import Source
from linnaeus.pretrained._heads import read_policy
from linnaeus.pretrained._plan import Joint
from linnaeus.pretrained._recipe import Recipe, read_recipe, recipe_of
from linnaeus.pretrained._remote import look_without_fetching
from linnaeus.pretrained._report import Arrival, LoadReport
from linnaeus.pretrained._sources import Look, look_here, resolve_all, sources_of
from linnaeus.pretrained._targets import Targets, targets_of
from linnaeus.pretrained._transfer import rehearse, transfer
from linnaeus.resolving import resolve_together

logger = logging.getLogger("linnaeus.pretrained")

AnyRecipe = Recipe | str | Path | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be loaded, looked into."""

    sources: list[Source]
    joints: tuple[Joint, ...]
    min_coverage: float
    notes: tuple[str, ...]


def load_pretrained(cfg: Config, model: nn.Module) -> LoadReport:
    """Load the pretrained weights that a config names into a model.

    MODEL.PRETRAINED fills a model of any kind; MODEL.PRETRAINED_CONVNEXT and MODEL.PRETRAINED_ROPEVIT are
    stitched into a hybrid one; MODEL.PRETRAINED_RECIPE stitches any sources into any model. Each name is
    resolved, and fetched where needed. Call on every rank that holds the model.

    Args:
        cfg: The config.
        model: The model, on a real device. Its parameters are overwritten in place, in their own dtype.

    Returns:
        What arrived; with no `sources` when none are configured.

    Raises:
        ConfigError: The keys contradict one another.
        CheckpointNotFoundError: A name can't be resolved.
        StitchError: Sources claim the same parameter, or do not meet.
        IncompatibleWeightsError: Less than MODEL.PRETRAINED_MIN_COVERAGE of what a source should fill
            would be filled, or the function would change. The model is untouched.
    """
    targets = targets_of(model)
    choice = choose(cfg, targets)
    if choice.recipe is None:
        report = _nothing(model, targets)
        logger.info("%s", report.summary())
        return report
    return _transferred(_request(choice, cfg, look_here(cfg)), model, targets)


def load_together(cfg: Config, model: nn.Module, group: Group) -> LoadReport:
    """Do what `load_pretrained` does on all ranks of a job, with each name fetched once for each cache.

    Call it on every rank.

    Args:
        cfg: The config.
        model: The model, alike on every rank.
        group: All ranks.

    Raises:
        LinnaeusError: What `load_pretrained` raised on any rank, on every rank.
        PeerFailedError: A rank is missing.
    """
    if group.world_size == 1:
        return load_pretrained(cfg, model)
    for identifier in (choose(cfg, targets_of(model)).checkpoints or {}).values():
        resolve_all(identifier, lambda name: resolve_together(name, cfg, group))
    loaded: list[LoadReport] = []
    group.agree("loading pretrained weights", lambda: loaded.append(load_pretrained(cfg, model)), alike=True)
    return loaded[0]


def stitch(recipe: AnyRecipe, model: nn.Module, cfg: Config | None = None) -> LoadReport:
    """Load several checkpoints into one model of any kind, as a recipe says.

    Args:
        recipe: A recipe's file, the name of a packaged one, or its content.
        model: The model, on a real device.
        cfg: Where checkpoints are found, and those that the recipe leaves to the config; by default the
            default config.

    Returns:
        What arrived.

    Raises:
        ConfigError: The recipe can't be read, or names no checkpoint.
        StitchError: Sources claim the same parameter, or do not meet.
        LinnaeusError: As `load_pretrained` raises.
    """
    cfg = cfg or Config()
    return _transferred(_request(_of_recipe(recipe, cfg), cfg, look_here(cfg)), model)


def preview(
    cfg: Config, model: nn.Module, *, recipe: AnyRecipe | None = None, checkpoint: str | None = None
) -> LoadReport:
    """Tell what would arrive in a model, from the headers of the files; nothing is fetched or changed.

    Args:
        cfg: The config, which names the checkpoints where the other arguments do not.
        model: The model; may be on the meta device.
        recipe: Stitch by this recipe.
        checkpoint: Load this one checkpoint.

    Returns:
        What would arrive; with `conflicts` where the load would be refused.

    Raises:
        ConfigError: The recipe or the config can't be followed.
        CheckpointNotFoundError: A checkpoint can't be had.
        CheckpointInvalidError: A file is no usable checkpoint.
    """
    targets = targets_of(model)
    choice = _asked(cfg, targets, recipe, checkpoint)
    if choice.recipe is None:
        return _nothing(model, targets)
    asked = _request(choice, cfg, look_without_fetching(cfg))
    report = rehearse(asked.sources, model, joints=asked.joints, min_coverage=asked.min_coverage)
    return replace(report, notes=(*report.notes, *asked.notes))


def save_stitched(report: LoadReport, model: nn.Module, path: Path) -> LoadReport:
    """Write what arrived in a model as a checkpoint, with the files that it comes from and their digests.

    Only what arrived is written: fresh parameters are nobody's weights.

    Args:
        report: The report of the load into this model.
        model: The model.
        path: The `.pth` to write.

    Returns:
        The report with the digests.

    Raises:
        SaveError: The file can't be written.
    """
    sources = tuple(replace(s, sha256=pth.digest_of(Path(s.path))) for s in report.sources)
    signed = replace(report, sources=sources)
    arrived = {a.name for a in report.arrivals if a.status != "fresh"}
    state = {name: tensor for name, tensor in model.state_dict().items() if name in arrived}
    pth.save({"model": state}, path, about={"lineage": {"stitched": signed.to_lineage()}})
    return signed


def _asked(cfg: Config, targets: Targets, recipe: AnyRecipe | None, checkpoint: str | None) -> Choice:
    if recipe is not None:
        return _of_recipe(recipe, cfg)
    if checkpoint is not None:
        alone = single(averaged=cfg.MODEL.PRETRAINED_EMA, container=cfg.MODEL.PRETRAINED_CONTAINER)
        return Choice(alone, {alone.sources[0].name: checkpoint})
    return choose(cfg, targets)


def _of_recipe(recipe: AnyRecipe, cfg: Config) -> Choice:
    if isinstance(recipe, Mapping):
        recipe = recipe_of(recipe, "recipe")
    read = recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe))
    named = checkpoints_of(read, cfg)
    if not named:
        keys = ", ".join(f"MODEL.{source.option}" for source in read.sources)
        raise ConfigError(field=f"recipe {read.name}", expected=f"no source has a checkpoint; set {keys}")
    return Choice(read, named)


def _request(choice: Choice, cfg: Config, look: Look) -> _Request:
    recipe = choice.recipe
    assert recipe is not None  # noqa: S101 - callers have asked
    model = cfg.MODEL
    heads, averaged = read_policy(_plain(model.PRETRAINED_HEADS)), bool(model.PRETRAINED_EMA)
    sources = sources_of(recipe, choice.checkpoints or {}, look, heads=heads, averaged=averaged)
    share = model.PRETRAINED_MIN_COVERAGE if recipe.min_coverage is None else recipe.min_coverage
    return _Request(sources, recipe.joints, share, choice.notes)


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _transferred(asked: _Request, model: nn.Module, targets: Targets | None = None) -> LoadReport:
    share = asked.min_coverage
    report = transfer(asked.sources, model, joints=asked.joints, min_coverage=share, targets=targets)
    return replace(report, notes=(*report.notes, *asked.notes))


def _nothing(model: nn.Module, targets: Targets) -> LoadReport:
    arrivals = (
        Arrival(name=t.name, shape=t.shape, status="fresh", is_parameter=t.is_parameter, claimed=False)
        for t in targets.first
    )
    return LoadReport(model=type(model).__name__, arrivals=tuple(arrivals))
