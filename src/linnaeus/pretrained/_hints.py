"""Guess which name of the model a source's unmatched name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from linnaeus.pretrained._weights import Shape

MAX_NAMES = 32
SIMILARITY = 0.6


def nearest_names(unmatched: Mapping[str, Shape], missing: Mapping[str, Shape]) -> dict[str, str]:
    """Return the most similar missing name of the same shape for unmatched names.

    Args:
        unmatched: Names in the source that the model has not, with shapes; the first 32 are looked at,
            because comparing names costs more than loading them.
        missing: Names in the model that nothing filled, with shapes.
    """
    by_shape: dict[Shape, list[str]] = {}
    for name, shape in missing.items():
        by_shape.setdefault(shape, []).append(name)
    found = {name: _nearest(name, by_shape.get(shape, ())) for name, shape in _first(unmatched).items()}
    return {name: near for name, near in found.items() if near}


def _first(names: Mapping[str, Shape]) -> dict[str, Shape]:
    return dict(list(names.items())[:MAX_NAMES])


def _nearest(name: str, candidates: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=SIMILARITY)), None)
