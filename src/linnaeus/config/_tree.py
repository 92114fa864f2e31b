"""Reading and writing nested dicts by a path of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = dict[str, Any]
KeyPath = tuple[str, ...]


def dotted(path: Sequence[object]) -> str:
    """Return a path of keys as people write it: `TRAIN.EPOCHS`."""
    return ".".join(map(str, path))


def subtree(tree: Any, path: KeyPath) -> Tree | None:
    """Return the dict at a path, or None when there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def has(tree: Tree, path: KeyPath) -> bool:
    """Tell whether there is a value, None included, at a path."""
    parent = subtree(tree, path[:-1])
    return parent is not None and path[-1] in parent


def value_at(tree: Tree, path: KeyPath) -> Any:
    """Return the value at a path, or None when there is none."""
    return (subtree(tree, path[:-1]) or {}).get(path[-1])


def assign(tree: Tree, path: KeyPath, value: Any) -> KeyPath | None:
    """Set the value at a path, making the sections that are missing or None.

    Returns:
        None, or the path of the value that is in the way because it is not a section; then nothing is set.
    """
    section: Any = tree
    for depth, key in enumerate(path[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            return path[:depth]
    section[path[-1]] = value
    return None
