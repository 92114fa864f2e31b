"""From the name of a checkpoint to a source: resolved, looked into, its tensors left where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from linnaeus.config import Config
from linnaeus.pretrained._fit import Source
from linnaeus.pretrained._heads import HeadPolicy
from linnaeus.pretrained._recipe import Recipe, SourceRecipe
from linnaeus.pretrained._unwrap import Unwrapped, unwrap
from linnaeus.pth import INDEX_SUFFIX, describe, load, sketch
from linnaeus.resolving import resolve

Look = Callable[[str], tuple[Any, str]]
"""From an identifier to the content of its checkpoint, tensors left in the file, and the file's name."""


def look_here(cfg: Config) -> Look:
    """Return what resolves a checkpoint, fetching it where need be, and looks into the file."""

    def look(identifier: str) -> tuple[Any, str]:
        path = resolve_all(identifier, lambda name: resolve(name, cfg))
        return sketch(path), str(path)

    return look


def resolve_all(identifier: str, resolve_one: Callable[[str], Path]) -> Path:
    """Resolve a checkpoint; of one in several safetensors files, the index and every file that it names."""
    path = resolve_one(identifier)
    if path.name.endswith(INDEX_SUFFIX):
        for name in describe(path).keys:
            resolve_one(str(path.with_name(name)) if Path(identifier).is_absolute() else name)
    return path


def sources_of(
    recipe: Recipe,
    checkpoints: Mapping[str, str],
    look: Look,
    *,
    heads: HeadPolicy,
    averaged: bool = False,
) -> list[Source]:
    """Return the sources of a recipe that have a checkpoint, each looked into.

    Args:
        recipe: The recipe.
        checkpoints: Identifiers by the name of a source.
        look: Looks into a checkpoint.
        heads: What happens to heads.
        averaged: Take the averaged weights of every source.

    Raises:
        LinnaeusError: A checkpoint can't be had or read, or holds no weights.
    """
    return [
        _source(part, checkpoints[part.name], look, heads, averaged=averaged or part.averaged)
        for part in recipe.sources
        if part.name in checkpoints
    ]


def _source(part: SourceRecipe, identifier: str, look: Look, heads: HeadPolicy, *, averaged: bool) -> Source:
    content, path = look(identifier)
    found = unwrap(content, path, averaged=averaged, container=part.container)
    return Source(
        name=part.name,
        identifier=identifier,
        path=path,
        unwrapped=found,
        rules=part.rules,
        own_rules=part.own_rules,
        claims=part.claims,
        heads=heads,
    )


def require_readable(sources: list[Source]) -> list[Source]:
    """Return the sources with every tensor readable: files that must be loaded as a whole are loaded."""
    return [source if _readable(source) else _loaded(source) for source in sources]


def _readable(source: Source) -> bool:
    held = source.unwrapped.tensors.values()
    return all(isinstance(tensor, Tensor) or tensor.is_readable for tensor in held)


def _loaded(source: Source) -> Source:
    container = source.unwrapped.container
    again: Unwrapped = unwrap(load(source.path), source.path, container=container or None)
    others = source.unwrapped.others
    return dataclasses.replace(source, unwrapped=dataclasses.replace(again, others=others))
