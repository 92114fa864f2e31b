"""Defaults that depend on other keys: where a run of this name writes to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from linnaeus.config._schema import DEFAULT_RUN_NAME
from linnaeus.config._tree import KeyPath, Tree, assign, value_at
from linnaeus.errors import ConfigError

_CACHE_DIR = ("ENV", "INPUT", "CACHE_DIR")
_CHECKPOINTS = ("ENV", "OUTPUT", "DIRS", "CHECKPOINTS")
_EXP_BASE = ("ENV", "OUTPUT", "DIRS", "EXP_BASE")
_PREFIX = ("ENV", "OUTPUT", "BUCKET", "PATH_PREFIX")


def fill_in(tree: Tree) -> None:
    """Set the keys that are not given and whose default depends on others.

    Raises:
        ConfigError: The run's name is needed for one and can't be part of a path.
    """
    if value_at(tree, _CACHE_DIR) == "":
        tree["ENV"]["INPUT"].pop("CACHE_DIR")
    if value_at(tree, _CHECKPOINTS) in (None, ""):
        base = value_at(tree, _EXP_BASE)
        base = base if base not in (None, "") else f"runs/{_run_name(tree)}"
        if isinstance(base, str | os.PathLike):  # anything else is refused with the other wrong types
            assign(tree, _CHECKPOINTS, Path(base, "checkpoints"))
    if value_at(tree, _PREFIX) is None:
        assign(tree, _PREFIX, f"runs/{_run_name(tree)}/")


def _run_name(tree: Tree) -> str:
    for path in (("EXPERIMENT", "NAME"), ("MODEL", "NAME")):
        name = value_at(tree, path)
        if isinstance(name, str | int | float) and name != "":
            return _checked(str(name), path)
    return DEFAULT_RUN_NAME


def _checked(name: str, path: KeyPath) -> str:
    # the name becomes a part of a path, which must not lead out of runs/
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\x00-\x1f\x7f\\]", name):
        expected = "should be fit for a directory's name, without '..' and without '/' at its ends"
        raise ConfigError(field=".".join(path), expected=expected, value=name)
    return name
