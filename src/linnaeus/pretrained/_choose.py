"""From the config to what is to be loaded: nothing, one checkpoint, or several that are stitched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.pretrained._fit import views
from linnaeus.pretrained._recipe import STITCHED, Recipe, SourceRecipe, packaged_recipe, read_recipe
from linnaeus.pretrained._rulebook import METAFORMER, RULE_SETS, packaged_rules
from linnaeus.pretrained._targets import Targets

SINGLE = "single"
KINDS = (SINGLE, METAFORMER, STITCHED)
NAME = "pretrained"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to load.

    Attributes:
        recipe: How; a single checkpoint is a recipe of one source. None for nothing.
        checkpoints: Identifiers by the name of a recipe's source.
        notes: What the config names besides and why it isn't read.
    """

    recipe: Recipe | None = None
    checkpoints: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def single(*, averaged: bool = False, container: str | None = None, kind: str = SINGLE) -> Recipe:
    """Return the recipe of one checkpoint for a whole model.

    Args:
        averaged: Take the averaged weights.
        container: Take those under this key.
        kind: `SINGLE` for any of the packaged rule sets, or the one that it must be.
    """
    names = RULE_SETS if kind == SINGLE else (kind,)
    rules = tuple(packaged_rules(name) for name in names)
    source = SourceRecipe(name=NAME, option="PRETRAINED", rules=rules, averaged=averaged, container=container)
    return Recipe(name=kind, sources=(source,))


def choose(cfg: Config, targets: Targets) -> Choice:
    """Decide what to load.

    MODEL.PRETRAINED alone is one checkpoint; the keys of the stitching recipe's sources are stitched, whether
    or not MODEL.PRETRAINED is set. With both, MODEL.PRETRAINED_SOURCE says which is meant; it may stay unset
    where MODEL.PRETRAINED is one of the sources: then the model decides, by having a place for every source.
    MODEL.PRETRAINED_RECIPE is a recipe of one's own, and goes before all of these.

    Raises:
        ConfigError: The keys contradict one another.
    """
    model = cfg.MODEL
    if model.PRETRAINED_RECIPE:
        return _own_recipe(cfg)
    recipe = packaged_recipe(STITCHED)
    named = checkpoints_of(recipe, cfg)
    kind = _kind(cfg, recipe, model.PRETRAINED, named, hybrid=_has_all(recipe, targets))
    if kind == STITCHED:
        notes = (*_not_read("PRETRAINED", model.PRETRAINED), *_unset(recipe, named))
        return Choice(recipe, named, (*notes, *_not_stitched(cfg)))
    if kind is not None:
        alone = single(averaged=model.PRETRAINED_EMA, container=model.PRETRAINED_CONTAINER, kind=kind)
        keys = ", ".join(str(source.option) for source in recipe.sources)
        return Choice(alone, {NAME: str(model.PRETRAINED)}, _not_read(keys, named))
    return Choice()


def checkpoints_of(recipe: Recipe, cfg: Config) -> dict[str, str]:
    """Return the checkpoint of each source of a recipe: its own, or what the config names.

    Args:
        recipe: The recipe.
        cfg: The config; options of its section `MODEL` name checkpoints.

    Returns:
        Identifiers by the name of a source.
    """
    found = {}
    for source in recipe.sources:
        identifier = source.checkpoint or (source.option and cfg.MODEL.get(source.option))
        if identifier:
            found[source.name] = str(identifier)
    return found


def _own_recipe(cfg: Config) -> Choice:
    recipe = read_recipe(str(cfg.MODEL.PRETRAINED_RECIPE))
    named = checkpoints_of(recipe, cfg)
    others = ("PRETRAINED", "PRETRAINED_CONVNEXT", "PRETRAINED_ROPEVIT")
    read = {source.option for source in recipe.sources}
    notes = [note for key in others if key not in read for note in _not_read(key, cfg.MODEL[key])]
    return Choice(recipe, named, (*notes, *_unset(recipe, named)))


def _kind(
    cfg: Config, recipe: Recipe, alone: str | None, parts: Mapping[str, str], *, hybrid: bool
) -> str | None:
    asked = cfg.MODEL.PRETRAINED_SOURCE
    if asked is not None:
        return _asked(asked, recipe, alone, parts)
    if alone and parts:
        if alone not in parts.values():
            raise _ambiguous(recipe, alone)
        return STITCHED if hybrid else SINGLE
    return SINGLE if alone else STITCHED if parts else None


def _asked(asked: str, recipe: Recipe, alone: str | None, parts: Mapping[str, str]) -> str:
    if asked not in KINDS:
        raise ConfigError(
            field="MODEL.PRETRAINED_SOURCE",
            expected=f"supported are {', '.join(KINDS)}",
            value=asked,
            nearest=next(iter(difflib.get_close_matches(asked, KINDS, n=1)), None),
        )
    if not (parts if asked == STITCHED else alone):
        keys = [str(source.option) for source in recipe.sources] if asked == STITCHED else ["PRETRAINED"]
        raise ConfigError(
            field=" or ".join(f"MODEL.{key}" for key in keys),
            expected=f"MODEL.PRETRAINED_SOURCE is {asked!r}, so there must be a checkpoint to load",
        )
    return asked


def _ambiguous(recipe: Recipe, alone: str) -> ConfigError:
    keys = ", ".join(f"MODEL.{source.option}" for source in recipe.sources)
    return ConfigError(
        field="MODEL.PRETRAINED",
        expected=f"is set along with {keys} and is none of them; say which is meant:"
        f" MODEL.PRETRAINED_SOURCE: {SINGLE}, or {STITCHED}",
        value=alone,
    )


def _has_all(recipe: Recipe, targets: Targets) -> bool:
    claims = [claim for source in recipe.sources for claim in source.claims or ()]
    return any(
        all(any(name.startswith(claim) for name in view) for claim in claims) for view in views(targets)
    )


def _not_read(keys: str, named: object) -> tuple[str, ...]:
    return (f"MODEL.{keys}: set, but not read by itself",) if named else ()


def _not_stitched(cfg: Config) -> tuple[str, ...]:
    if cfg.MODEL.PRETRAINED_CONTAINER:
        raise ConfigError(
            field="MODEL.PRETRAINED_CONTAINER",
            expected="is about MODEL.PRETRAINED alone; a recipe says `container` for each source",
        )
    return ()


def _unset(recipe: Recipe, named: Mapping[str, str]) -> tuple[str, ...]:
    unset = [source for source in recipe.sources if source.name not in named]
    return tuple(f"MODEL.{source.option} is not set: its part of the model stays fresh" for source in unset)
