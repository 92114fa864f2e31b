"""The ranks that write a checkpoint together, as this room needs them; and a process that is alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Ranks(Protocol):
    """All ranks of the job, as this room needs them; `linnaeus.distributed.Group` is one."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def agree(
        self,
        what: str,
        act: Callable[[], Any],
        *,
        merge: Callable[[list[Any]], Any] = ...,
        conclude: Callable[[Any], Any] = ...,
    ) -> Any:
        """Act on every rank, then on rank 0 with what all said; return the conclusion everywhere."""


class Alone:
    """The only process, for saves that no other takes part in."""

    rank, world_size = 0, 1

    def agree(
        self,
        _: str,
        act: Callable[[], Any],
        *,
        merge: Callable[[list[Any]], Any] = lambda many: many[0],
        conclude: Callable[[Any], Any] = lambda merged: merged,
    ) -> Any:
        """Act, and conclude."""
        return conclude(merge([act()]))
