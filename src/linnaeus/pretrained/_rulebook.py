"""Rule sets as data: from YAML to rules. The packaged ones lie beside this file, in `rules/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from linnaeus.errors import ConfigError
from linnaeus.pretrained._rules import Leave, Rename, Rule, RuleSet
from linnaeus.pretrained._template import same_places, template
from linnaeus.pretrained._tensor_rules import (
    AxialFrequencies,
    Constant,
    Fold,
    Layers,
    Merge,
    Split,
    Stack,
    Transpose,
    View,
)

Plain = Mapping[str, Any]

# Of the dialects the first, and of the others the first, whose names are all there tells what a source is.
RULE_SETS = ("mformer", "convnext_timm", "linnaeus_v1", "metaformer", "convnext", "ropevit")
METAFORMER = "metaformer"


@cache
def packaged_rules(name: str) -> RuleSet:
    """Return one of the packaged rule sets.

    Args:
        name: One of `RULE_SETS`.

    Raises:
        ConfigError: No such rule set, or a rule that can't be read.
    """
    if name not in RULE_SETS:
        raise ConfigError(field="rules", expected=f"one of {', '.join(RULE_SETS)}", value=name)
    plain = packaged("rules", name)
    return RuleSet(
        plain["name"],
        frozenset(plain["detect"]),
        read_rules(plain["rules"], f"rules {name}"),
        dialect=bool(plain.get("dialect", False)),
    )


def packaged(folder: str, name: str) -> dict[str, Any]:
    """Return the content of a packaged YAML file."""
    text = files("linnaeus.pretrained").joinpath(folder, f"{name}.yaml").read_text("utf-8")
    plain: dict[str, Any] = yaml.safe_load(text)
    return plain


def read_rules(plain: object, where: str) -> tuple[Rule, ...]:
    """Read a list of rules.

    Args:
        plain: The list.
        where: What to call its place in an error.

    Raises:
        ConfigError: It is none, or a rule can't be read.
    """
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(field=where, expected="a list of rules", value=plain)
    return tuple(read_rule(rule, where) for rule in plain)


def read_rule(plain: object, where: str) -> Rule:
    """Read one rule: a mapping of its kind to its arguments.

    Args:
        plain: For example `{"rename": {"prefix": "trunk.", "to": ""}}`.
        where: What to call its place in an error.

    Raises:
        ConfigError: No such kind, arguments of another kind, or a pattern that is none.
    """
    if not isinstance(plain, Mapping) or len(plain) != 1:
        raise ConfigError(field=where, expected="a rule is one kind with its arguments", value=plain)
    ((kind, arguments),) = plain.items()
    if kind not in _KINDS:
        raise ConfigError(field=where, expected=f"a rule is one of {', '.join(_KINDS)}", value=kind)
    try:
        return _KINDS[kind](**arguments)
    except (TypeError, ValueError, re.error) as error:
        raise ConfigError(field=f"{where}.{kind}", expected=f"can't be read: {error}") from error


def _rename(to: str, match: str | None = None, prefix: str | None = None, name: str | None = None) -> Rename:
    if sum(given is not None for given in (match, prefix, name)) != 1:
        raise TypeError("give one of match, prefix and name")
    if match is not None:
        return Rename(re.compile(match), to)
    if prefix is not None:
        rest = "(.*)"
        back = (re.compile(re.escape(to) + rest), _escaped(prefix) + r"\1")
        return Rename(re.compile(re.escape(prefix) + rest), _escaped(to) + r"\1", back)
    one, other = template(name or ""), template(to)
    same_places(one, [other])
    return Rename(one.pattern, _expansion(to), (other.pattern, _expansion(name or "")))


def _expansion(text: str) -> str:
    """Return a template as the replacement of a match of its counterpart."""
    return re.sub(r"\{([a-z_]+)(?:\.\.\.)?\}", r"\\g<\1>", _escaped(text))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\")


def _leave(why: str, match: str | None = None, prefix: str | None = None) -> Leave:
    if (match is None) == (prefix is None):
        raise TypeError("give either match or prefix")
    return Leave(re.compile(match if prefix is None else re.escape(prefix) + ".*"), why)  # type: ignore[arg-type]


def _split(name: str, into: Sequence[str], dim: int = 0) -> Split:
    whole, parts = template(name), [template(part) for part in into]
    same_places(whole, parts)
    return Split(whole, tuple(parts), dim)


def _merge(names: Sequence[str], to: str, dim: int = 0) -> Merge:
    return _split(to, names, dim).inverse()


def _transpose(name: str, dims: Sequence[int]) -> Transpose:
    if sorted(dims) != list(range(len(dims))):
        raise ValueError(f"{list(dims)} is no order of dimensions")
    return Transpose(template(name), tuple(dims))


def _layers(name: str, to: str, dim: int = 0, heads_by_width: dict[int, int] | None = None) -> Layers:
    return Layers(name, _indexed(to), dim, heads_by_width or {})


def _stack(names: str, to: str, dim: int = 0) -> Stack:
    return Stack(_indexed(names), to, dim)


def _view(name: str, to: str, heads_by_width: Mapping[int, int] | None = None) -> View:
    return View(name, to, heads_by_width or {})


def _indexed(text: str) -> Any:
    made = template(text)
    if made.places != {"index"}:
        raise ValueError(f"{text!r} must have the one place {{index}}")
    return made


def _axial(to: str, beside: str, theta: float, *, retune: bool = False) -> AxialFrequencies:
    return AxialFrequencies(re.compile(to), beside, float(theta), retune)


_KINDS: Mapping[str, Callable[..., Rule]] = {
    "rename": _rename,
    "drop": _leave,
    "split": _split,
    "merge": _merge,
    "transpose": _transpose,
    "layers": _layers,
    "stack": _stack,
    "view": _view,
    "fold": lambda scale, into: Fold(re.compile(scale), tuple(into)),
    "axial_frequencies": _axial,
    "constant": lambda match, what: Constant(re.compile(match), what),
}
