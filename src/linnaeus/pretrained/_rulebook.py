"""Rule sets and recipes as data: from YAML to rules.

The packaged ones lie beside this file, in `rules/` and `recipes/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from linnaeus.errors import ConfigError
from linnaeus.pretrained._rules import (
    AxialFrequencies,
    Constant,
    Fold,
    InputChannels,
    Leave,
    Rename,
    Rule,
    RuleSet,
    Split,
)

Plain = Mapping[str, Any]

# In this order: the first whose names are all there tells what a source is.
RULE_SETS = ("mformer", "convnext", "ropevit")
STITCHED = "stitched_convnext_ropevit"


@dataclass(frozen=True, slots=True)
class PartRecipe:
    """One source of a stitched model.

    Attributes:
        name: What the recipe calls it.
        option: The key of MODEL that names its checkpoint.
        rules: Its rules.
        claims: Prefixes of the model's names that it fills.
    """

    name: str
    option: str
    rules: RuleSet
    claims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Width:
    """A width: the size of one dimension of one tensor of a source, under its name after the rules."""

    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to stitch a model out of several sources; at the joint, all widths are the same."""

    name: str
    parts: tuple[PartRecipe, ...]
    joint: Mapping[str, Width]


def packaged_rules(name: str) -> RuleSet:
    """Return one of the packaged rule sets.

    Args:
        name: One of `RULE_SETS`.

    Raises:
        ConfigError: A rule that can't be read.
    """
    plain = _packaged("rules", name)
    where = f"rules {name}"
    rules = tuple(read_rule(rule, where) for rule in plain["rules"])
    return RuleSet(plain["name"], frozenset(plain["detect"]), rules)


def packaged_recipe(name: str) -> Recipe:
    """Return one of the packaged stitching recipes, with the rules of its parts.

    Args:
        name: `STITCHED` is the only one.
    """
    plain = _packaged("recipes", name)
    parts = tuple(
        PartRecipe(part, spec["option"], packaged_rules(spec["rules"]), tuple(spec["claims"]))
        for part, spec in plain["parts"].items()
    )
    return Recipe(plain["name"], parts, {part: Width(**width) for part, width in plain["joint"].items()})


def _packaged(folder: str, name: str) -> dict[str, Any]:
    text = files("linnaeus.pretrained").joinpath(folder, f"{name}.yaml").read_text("utf-8")
    plain: dict[str, Any] = yaml.safe_load(text)
    return plain


def read_rule(plain: Plain, where: str) -> Rule:
    """Read one rule: a mapping of its kind to its arguments.

    Args:
        plain: For example `{"rename": {"prefix": "trunk.", "to": ""}}`.
        where: What to call its place in an error.

    Raises:
        ConfigError: No such kind, arguments of another kind, or a pattern that is none.
    """
    ((kind, arguments),) = plain.items()
    if kind not in _KINDS:
        raise ConfigError(field=where, expected=f"a rule is one of {', '.join(_KINDS)}", value=kind)
    try:
        return _KINDS[kind](**arguments)
    except (TypeError, re.error) as error:
        raise ConfigError(field=f"{where}.{kind}", expected=f"can't be read: {error}") from error


def _rename(to: str, match: str | None = None, prefix: str | None = None) -> Rename:
    return Rename(_pattern(match, prefix, rest=r"(.*)"), to if match else f"{_escaped(to)}\\1")


def _leave(why: str, match: str | None = None, prefix: str | None = None) -> Leave:
    return Leave(_pattern(match, prefix, rest=".*"), why)


def _pattern(match: str | None, prefix: str | None, *, rest: str) -> re.Pattern[str]:
    if (match is None) == (prefix is None):
        raise TypeError("give either match or prefix")
    return re.compile(match if prefix is None else re.escape(prefix) + rest)  # type: ignore[arg-type]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\")


def _split(name: str, dim: int, to: str, heads_by_width: dict[int, int] | None = None) -> Split:
    return Split(name, dim, to, heads_by_width or {})


_KINDS: Mapping[str, Callable[..., Rule]] = {
    "rename": _rename,
    "leave": _leave,
    "split": _split,
    "fold": lambda scale, into: Fold(re.compile(scale), tuple(into)),
    "input_channels": lambda match: InputChannels(re.compile(match)),
    "axial_frequencies": lambda to, beside, theta: AxialFrequencies(re.compile(to), beside, float(theta)),
    "constant": lambda match, what: Constant(re.compile(match), what),
}
