"""From the config to what is to be loaded: nothing, one checkpoint, or several that are stitched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.pretrained._fit import views
from linnaeus.pretrained._rulebook import STITCHED, Recipe
from linnaeus.pretrained._targets import Targets

SINGLE = "single"
KINDS = (SINGLE, STITCHED)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to load.

    Attributes:
        single: The identifier of one checkpoint for the whole model.
        parts: Identifiers by the name of a recipe's part.
        notes: What the config names besides and why it isn't read.
    """

    single: str | None = None
    parts: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def choose(cfg: Config, recipe: Recipe, targets: Targets) -> Choice:
    """Decide what to load.

    MODEL.PRETRAINED alone is one checkpoint; the keys of the recipe's parts are stitched, whether or not
    MODEL.PRETRAINED is set. With both, MODEL.PRETRAINED_SOURCE says which is meant; it may stay unset where
    MODEL.PRETRAINED is one of the parts: then the model decides, by having a place for every part.

    Raises:
        ConfigError: The keys contradict one another.
    """
    single = cfg.MODEL.PRETRAINED
    parts = {part.name: name for part in recipe.parts if (name := cfg.MODEL[part.option])}
    kind = _kind(cfg, recipe, single, parts, hybrid=_has_all_parts(recipe, targets))
    if kind == STITCHED:
        return Choice(parts=parts, notes=(*_not_read("PRETRAINED", single), *_unset(recipe, parts)))
    if kind == SINGLE:
        return Choice(single=single, notes=_not_read(", ".join(part.option for part in recipe.parts), parts))
    return Choice()


def _kind(
    cfg: Config, recipe: Recipe, single: str | None, parts: Mapping[str, str], *, hybrid: bool
) -> str | None:
    asked = cfg.MODEL.PRETRAINED_SOURCE
    if asked is not None:
        return _asked(asked, recipe, single, parts)
    if single and parts:
        if single not in parts.values():
            raise _ambiguous(recipe, single)
        return STITCHED if hybrid else SINGLE
    return SINGLE if single else STITCHED if parts else None


def _asked(asked: str, recipe: Recipe, single: str | None, parts: Mapping[str, str]) -> str:
    if asked not in KINDS:
        raise ConfigError(
            field="MODEL.PRETRAINED_SOURCE",
            expected=f"supported are {', '.join(KINDS)}",
            value=asked,
            nearest=next(iter(difflib.get_close_matches(asked, KINDS, n=1)), None),
        )
    if not (parts if asked == STITCHED else single):
        keys = [part.option for part in recipe.parts] if asked == STITCHED else ["PRETRAINED"]
        raise ConfigError(
            field=" or ".join(f"MODEL.{key}" for key in keys),
            expected=f"MODEL.PRETRAINED_SOURCE is {asked!r}, so there must be a checkpoint to load",
        )
    return asked


def _ambiguous(recipe: Recipe, single: str) -> ConfigError:
    keys = ", ".join(f"MODEL.{part.option}" for part in recipe.parts)
    return ConfigError(
        field="MODEL.PRETRAINED",
        expected=f"is set along with {keys} and is none of them; say which is meant:"
        f" MODEL.PRETRAINED_SOURCE: {SINGLE}, or {STITCHED}",
        value=single,
    )


def _has_all_parts(recipe: Recipe, targets: Targets) -> bool:
    claims = [claim for part in recipe.parts for claim in part.claims]
    return any(
        all(any(name.startswith(claim) for name in view) for claim in claims) for view in views(targets)
    )


def _not_read(keys: str, named: object) -> tuple[str, ...]:
    return (f"MODEL.{keys}: set, but not read by itself",) if named else ()


def _unset(recipe: Recipe, parts: Mapping[str, str]) -> tuple[str, ...]:
    unset = [part for part in recipe.parts if part.name not in parts]
    return tuple(f"MODEL.{part.option} is not set: its part of the model stays fresh" for part in unset)
