"""A part replaced for a while, on one rank of several; a part whose calls are noted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def noting(owner: Any, name: str, note: Callable[..., object]) -> Iterator[None]:
    """Have each call of a part noted for the length of the block, and done as always."""
    really = getattr(owner, name)

    def act(*arguments: Any, **named: Any) -> Any:
        note(*arguments, **named)
        return really(*arguments, **named)

    with replaced(owner, name, act, only=True):
        yield
