"""Memory that others may change while a rank writes it, and what all ranks hear when they did.

A rank whose part did not hold still must not leave by an exception, since the others would wait for it. It
says so where all say what they have written; then nothing is published, and all ranks raise the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from linnaeus.errors import TornSaveError
from linnaeus.pth._ranks import Ranks

if TYPE_CHECKING:
    import torch


class Held(Protocol):
    """Keeps what is written as it was, while others may be about to change it; `state.Guard` is one."""

    def pieces(self, storage: torch.UntypedStorage, /) -> Iterator[memoryview]:
        """Yield the bytes of one of the storages that pieces consist of."""

    def require_same(self, crc32s: Mapping[int, int], /) -> None:
        """Compare what was written, by `_cdata` of its storage, with the sums of before."""

    def finish(self) -> None:
        """Let go of everything."""


class Stillness:
    """Whether what this rank writes has held still.

    Args:
        held: What it is read through; None when nobody can change it.
        ranks: All ranks.
    """

    def __init__(self, held: Held | None, ranks: Ranks) -> None:
        self.torn: list[str] = []
        self._held, self._ranks = held, ranks

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note in `torn` that something did not hold still, instead of raising it on this rank alone."""
        try:
            yield
        except TornSaveError as error:
            rank = "" if self._ranks.world_size == 1 else f" (rank {self._ranks.rank})"
            self.torn.append(f"{error.problem}{rank}")

    def require(self, crc32s: Mapping[int, int]) -> None:
        """Let go of what was written, and compare it with what was there before.

        Args:
            crc32s: Of each storage as written, by its `_cdata`.

        Raises:
            TornSaveError: They differ.
        """
        if self._held is not None:
            self._held.finish()  # nobody need wait for the disk
            self._held.require_same(crc32s)


def all_torn(said: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    """Merge what ranks say of what did not hold still: the first is enough."""
    return [one for each in said for one in each["torn"]][:1]


def require_still(path: Path | str, torn: Sequence[str]) -> None:
    """Return if all held still on all ranks.

    Raises:
        TornSaveError: On some rank something did not; raised on every rank.
    """
    if torn:
        raise torn_save(path, torn[0])


def torn_save(path: Path | str, problem: str) -> TornSaveError:
    """Return what to raise when tensors were changed while they were saved."""
    return TornSaveError(
        path=str(path),
        problem=problem,
        advice="Call CheckpointManager.before_mutation() before changing parameters or optimizer state.",
    )
