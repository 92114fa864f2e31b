"""A part replaced for a while, on one rank of several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, other: Any, *, only: bool) -> Iterator[None]:
    """Put something else in a place for the length of the block, on one rank only."""
    before = getattr(owner, name)
    if only:
        setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)
