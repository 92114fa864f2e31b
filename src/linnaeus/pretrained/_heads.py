"""What happens to classification heads: loaded where they fit, dropped, required, mapped class by class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linnaeus.errors import ConfigError
from linnaeus.pretrained._adapters import changed
from linnaeus.pretrained._rules import without
from linnaeus.pretrained._targets import HEADS
from linnaeus.pretrained._weights import Offer, Shapes, Weight

FIELD = "MODEL.PRETRAINED_HEADS"
_KEYS = ("FROM", "CLASSES", "SOURCE_CLASSES")
_MODES = ("fit", "drop", "keep")


@dataclass(frozen=True, slots=True)
class HeadMap:
    """One head of the model, filled class by class.

    Attributes:
        head: The module in the model, or the last part of its name.
        origin: The module in the source; None for that of the same name.
        rows: (row of the model, row of the source) for each class that both know.
        num_classes: Classes of the model's head.
        num_source_classes: Classes of the source's.
    """

    head: str
    origin: str | None
    rows: tuple[tuple[int, int], ...]
    num_classes: int
    num_source_classes: int


@dataclass(frozen=True, slots=True)
class HeadPolicy:
    """What happens to heads: `fit` loads those of the same shape, `drop` none, `keep` requires all."""

    mode: str = "fit"
    maps: tuple[HeadMap, ...] = ()

    def apply(self, offer: Offer, target: Shapes, may_fill: Callable[[str], bool]) -> Offer:
        """Return the offer with heads as they are to be loaded.

        Args:
            offer: What a source has.
            target: The model's shapes.
            may_fill: Tells whether the source is to fill what has a name. One that is not to fill heads still
                fills those that are mapped by class, if they fit: the mapping asks for it.
        """
        if self.mode == "drop":
            heads = [name for name in offer.weights if name.startswith(HEADS)]
            return without(offer, heads, f"heads are dropped ({FIELD})")
        return _mapped(offer, self.maps, target, may_fill) if self.maps else offer


def read_policy(value: object) -> HeadPolicy:
    """Read the value of MODEL.PRETRAINED_HEADS.

    Args:
        value: None, "fit", "drop", "keep", or for each head FROM, CLASSES and SOURCE_CLASSES.

    Raises:
        ConfigError: It is none of these, or a list of classes can't be had.
    """
    if value is None:
        return HeadPolicy()
    if isinstance(value, str):
        if value not in _MODES:
            raise ConfigError(field=FIELD, expected=f"one of {', '.join(_MODES)}, or a section", value=value)
        return HeadPolicy(value)
    if not isinstance(value, Mapping):
        raise ConfigError(field=FIELD, expected=f"one of {', '.join(_MODES)}, or a section", value=value)
    return HeadPolicy("fit", tuple(_read_map(str(head), plain) for head, plain in value.items()))


def _read_map(head: str, plain: Any) -> HeadMap:
    field = f"{FIELD}.{head}"
    if not isinstance(plain, Mapping) or not {"CLASSES", "SOURCE_CLASSES"} <= set(plain) <= set(_KEYS):
        raise ConfigError(field=field, expected="CLASSES, SOURCE_CLASSES and, if need be, FROM", value=plain)
    ours = _classes(plain["CLASSES"], f"{field}.CLASSES")
    theirs = _classes(plain["SOURCE_CLASSES"], f"{field}.SOURCE_CLASSES")
    places = {name: row for row, name in enumerate(theirs)}
    rows = tuple((row, places[name]) for row, name in enumerate(ours) if name in places)
    if not rows:
        raise ConfigError(field=field, expected="CLASSES and SOURCE_CLASSES have not one name in common")
    return HeadMap(head, plain.get("FROM"), rows, len(ours), len(theirs))


def _classes(value: object, field: str) -> list[str]:
    if isinstance(value, str):
        try:
            value = Path(value).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(field=field, expected=f"can't be read: {error}", value=value) from error
    if not isinstance(value, list | tuple) or not value or not all(isinstance(n, str | int) for n in value):
        raise ConfigError(
            field=field, expected="a list of names, or a text file with one on each line", value=value
        )
    names = [str(name).strip() for name in value]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ConfigError(field=field, expected="the same class stands there twice", value=twice)
    return names


def _mapped(offer: Offer, maps: Iterable[HeadMap], target: Shapes, may_fill: Callable[[str], bool]) -> Offer:
    made: dict[str, Weight] = {}
    conflicts = list(offer.conflicts)
    taken: set[str] = set()  # only at the end: two heads may come from one
    for mapping in maps:
        module = _module(mapping, target)
        parts = _parts(offer, mapping, module, target)
        problems = [
            f"{name} can't be mapped by class: {problem}"
            for name, (weight, _) in parts.items()
            if (problem := _misfit(mapping, weight, target[name])) is not None
        ]
        if problems and not may_fill(f"{module}.weight"):
            continue  # another source's
        conflicts += problems
        conflicts += [f"{name} is mapped by class twice" for name in parts if name in made]
        taken |= {origin for _, origin in parts.values()}
        if not problems:
            made |= {name: _rows(weight, mapping, target[name]) for name, (weight, _) in parts.items()}
    weights = {name: weight for name, weight in offer.weights.items() if name not in taken} | made
    return replace(offer, weights=weights, conflicts=tuple(conflicts))


def _module(mapping: HeadMap, target: Shapes) -> str:
    module = next((m for m in (mapping.head, f"heads.{mapping.head}") if f"{m}.weight" in target), None)
    if module is None:
        raise ConfigError(field=f"{FIELD}.{mapping.head}", expected="the model has no such head")
    return module


def _parts(offer: Offer, mapping: HeadMap, module: str, target: Shapes) -> dict[str, tuple[Weight, str]]:
    """Return weight and bias by their names in the model, each with its name in the source."""
    origin = mapping.origin or module
    return {
        f"{module}.{last}": (offer.weights[f"{origin}.{last}"], f"{origin}.{last}")
        for last in ("weight", "bias")
        if f"{origin}.{last}" in offer.weights and f"{module}.{last}" in target
    }


def _misfit(mapping: HeadMap, weight: Weight, wanted: tuple[int, ...]) -> str | None:
    if weight.shape[0] != mapping.num_source_classes:
        return f"{mapping.num_source_classes} SOURCE_CLASSES for {weight.shape[0]} rows of the source"
    if wanted[0] != mapping.num_classes:
        return f"{mapping.num_classes} CLASSES for {wanted[0]} rows of the model"
    return None if weight.shape[1:] == wanted[1:] else f"{weight.shape} in the source, {wanted} in the model"


def _rows(weight: Weight, mapping: HeadMap, wanted: tuple[int, ...]) -> Weight:
    ours, theirs = zip(*mapping.rows, strict=True)
    note = f"{len(ours)} of {mapping.num_classes} classes by name"
    return changed(weight, note, wanted, lambda: weight.read()[list(theirs)], rows=ours)


def missing_heads(policy: HeadPolicy, fresh: Iterable[str]) -> Iterable[str]:
    """Return why a load must be refused for the heads that stay fresh, when all were to be kept."""
    return [f"{name} stays fresh, but {FIELD} is keep" for name in fresh] if policy.mode == "keep" else []


def unmapped_heads(policy: HeadPolicy, target: Shapes, filled: Collection[str]) -> Iterable[str]:
    """Yield why a load must be refused for heads that were to be mapped by class and that no source has.

    Args:
        policy: What was asked for.
        target: The model's shapes.
        filled: Names in the model of what is filled row by row.
    """
    for mapping in policy.maps:
        module = _module(mapping, target)
        if f"{module}.weight" not in filled:
            origin, width = mapping.origin or module, tuple(target[f"{module}.weight"][1:])
            yield (
                f"{FIELD}.{mapping.head}: no source has {origin}.weight for"
                f" {mapping.num_source_classes} classes of {width}; FROM names the source's module"
            )
