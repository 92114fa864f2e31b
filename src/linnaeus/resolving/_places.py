"""What to say of a place that has not got a file, and which names there are most like it."""

from __future__ import annotations

import difflib
import os

_NUM_NEAREST = 3


def describe_cache(cache_dir: str) -> str:
    """Return what to say of a cache that has not got the file."""
    if not os.path.isdir(cache_dir):
        return f"the cache {cache_dir} does not exist"
    return f"not in the cache {cache_dir}"


def nearest_in(name: str, directory: str) -> list[str]:
    try:
        there = os.listdir(directory)
    except OSError:
        return []
    return nearest(name, there)


def nearest(name: str, there: list[str]) -> list[str]:
    """Return the few names of `there` that are most like `name`, most alike first."""
    visible = sorted({entry for entry in there if not entry.startswith(".")})
    return difflib.get_close_matches(name, visible, n=_NUM_NEAREST, cutoff=0.6)
