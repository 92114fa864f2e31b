"""Stitching recipes as data: which sources, what each fills, and where they meet.

`recipes/stitched_convnext_ropevit.yaml` is mFormer's own. A recipe of anybody's is a file of the same form.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from linnaeus.errors import ConfigError
from linnaeus.pretrained._plan import Joint, Width
from linnaeus.pretrained._rulebook import packaged, packaged_rules, read_rules
from linnaeus.pretrained._rules import RuleSet

STITCHED = "stitched_convnext_ropevit"
RECIPES = (STITCHED,)

_KEYS = ("name", "about", "model", "sources", "joints", "min_coverage")
_SOURCE_KEYS = ("checkpoint", "option", "rules", "claims", "container", "averaged")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecipe:
    """One source of a stitched model.

    Attributes:
        name: What the recipe calls it.
        checkpoint: Its checkpoint, as MODEL.PRETRAINED names one; None where the config says.
        option: The key of MODEL that names its checkpoint, where `checkpoint` does not.
        rules: Rule sets of which those are applied whose names it has.
        own_rules: Rules that are applied after those.
        claims: Prefixes of the model's names that it fills; None for all.
        container: The key in the file that its weights are under; None for the first that is known.
        averaged: Whether the averaged weights are taken.
    """

    name: str
    checkpoint: str | None = None
    option: str | None = None
    rules: tuple[RuleSet, ...] = ()
    own_rules: RuleSet | None = None
    claims: tuple[str, ...] | None = None
    container: str | None = None
    averaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to stitch a model out of several sources; at each joint, all widths are the same.

    Attributes:
        name: Its name.
        sources: The sources.
        joints: Where they meet.
        model: The MODEL section of a config that the recipe is for, or None.
        min_coverage: The share of what each source claims that must arrive; None where the config says.
    """

    name: str
    sources: tuple[SourceRecipe, ...]
    joints: tuple[Joint, ...] = ()
    model: Mapping[str, Any] | None = None
    min_coverage: float | None = None


@cache
def packaged_recipe(name: str) -> Recipe:
    """Return one of the packaged stitching recipes, with the rules of its sources.

    Args:
        name: One of `RECIPES`.
    """
    return recipe_of(packaged("recipes", name), f"recipe {name}")


def read_recipe(identifier: str) -> Recipe:
    """Return a recipe by its file, or a packaged one by its name.

    Args:
        identifier: A path, or one of `RECIPES`.

    Raises:
        ConfigError: There is no such recipe, or it can't be read.
    """
    if identifier in RECIPES:
        return packaged_recipe(identifier)
    path = Path(identifier).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        nearest = next(iter(difflib.get_close_matches(identifier, RECIPES, n=1)), None)
        expected = f"a recipe's file, or one of {', '.join(RECIPES)}; {error}"
        raise ConfigError(field="recipe", expected=expected, value=identifier, nearest=nearest) from error
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(field="recipe", expected=f"is no YAML: {error}", value=identifier) from error
    return recipe_of(plain, str(path))


def recipe_of(plain: object, where: str) -> Recipe:
    """Return a recipe from plain values.

    Args:
        plain: As YAML gives it.
        where: What to call it in errors.

    Raises:
        ConfigError: It is none; the error names the key.
    """
    section = _section(plain, _KEYS, where)
    sources = tuple(
        _source(str(name), spec, f"{where}: sources.{name}")
        for name, spec in _section(section.get("sources"), None, f"{where}: sources").items()
    )
    joints = tuple(
        _joint(joint, sources, f"{where}: joints") for joint in _list(section.get("joints"), where)
    )
    model = section.get("model")
    return Recipe(
        name=str(section.get("name", where)),
        sources=sources,
        joints=joints,
        model=None if model is None else _section(model, None, f"{where}: model"),
        min_coverage=_share(section.get("min_coverage"), f"{where}: min_coverage"),
    )


def _section(plain: object, known: Sequence[str] | None, where: str) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping) or not plain:
        raise ConfigError(field=where, expected="a section of keys", value=plain)
    for key in plain:
        if known is not None and key not in known:
            nearest = next(iter(difflib.get_close_matches(str(key), known, n=1)), None)
            raise ConfigError(
                field=f"{where}.{key}", expected=f"known are {', '.join(known)}", nearest=nearest
            )
    return plain


def _list(plain: object, where: str) -> Sequence[Any]:
    if plain is None:
        return ()
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(field=where, expected="a list", value=plain)
    return plain


def _share(value: object, where: str) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        return None if value is None else float(value)
    raise ConfigError(field=where, expected="a share from 0 to 1", value=value)


def _source(name: str, plain: object, where: str) -> SourceRecipe:
    spec = _section(plain, _SOURCE_KEYS, where)
    if not (spec.get("checkpoint") or spec.get("option")):
        raise ConfigError(field=where, expected="`checkpoint` must name its checkpoint")
    sets, own = _rules(spec.get("rules"), f"{where}.rules")
    claims = spec.get("claims")
    prefixes = None if claims is None else tuple(map(str, _list(claims, f"{where}.claims")))
    if prefixes == ():
        raise ConfigError(
            field=f"{where}.claims", expected="an empty list claims nothing; leave `claims` out"
        )
    if prefixes is not None and not all(prefixes):
        raise ConfigError(
            field=f"{where}.claims", expected="an empty prefix claims everything; leave `claims` out"
        )
    return SourceRecipe(
        name=name,
        checkpoint=spec.get("checkpoint"),
        option=spec.get("option"),
        rules=sets,
        own_rules=own,
        claims=prefixes,
        container=spec.get("container"),
        averaged=bool(spec.get("averaged", False)),
    )


def _rules(plain: object, where: str) -> tuple[tuple[RuleSet, ...], RuleSet | None]:
    """Return the packaged rule sets that are named, and the rules that are written out."""
    given = [plain] if isinstance(plain, str) else _list(plain, where)
    sets = tuple(packaged_rules(name) for name in given if isinstance(name, str))
    own = read_rules([rule for rule in given if not isinstance(rule, str)], where)
    return sets, RuleSet("the recipe's own", frozenset(), own) if own else None


def _joint(plain: object, sources: Sequence[SourceRecipe], where: str) -> Joint:
    names = [source.name for source in sources]
    joint = {}
    for name, spec in _section(plain, names, where).items():
        width = _section(spec, ("name", "dim"), f"{where}.{name}")
        if not isinstance(width.get("name"), str) or type(width.get("dim", 0)) is not int:
            raise ConfigError(
                field=f"{where}.{name}", expected="a tensor's name and a dimension", value=dict(width)
            )
        joint[name] = Width(width["name"], int(width.get("dim", 0)))
    return joint
