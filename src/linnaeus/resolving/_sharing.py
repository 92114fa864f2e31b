"""Which ranks of a job see the same directory: found out, not configured.

One rank of each node leaves a mark in it, and every rank looks which marks it sees. The lowest rank whose
mark is seen acts for all that see it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from linnaeus.errors import SaveError
from linnaeus.files import make_directory, remove_file, temporary_name


class Job(Protocol):
    """All ranks of a job, as this room needs them; `linnaeus.distributed.Group` is one."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    @property
    def leads_node(self) -> bool:
        """Whether this one acts when one of each node suffices."""

    def agree(
        self,
        what: str,
        act: Callable[[], Any],
        *,
        merge: Callable[[list[Any]], Any] = ...,
        conclude: Callable[[Any], Any] = ...,
        alike: bool = False,
    ) -> Any:
        """Act on every rank, then on rank 0 with what all said; return the conclusion everywhere."""

    def decide_apart(self, what: str, by: int, decide: Callable[[Callable[[], None]], Any]) -> Any:
        """Decide on several ranks at once, each for some others; return the decision of rank `by`."""

    def pass_on(
        self,
        what: str,
        members: Sequence[int],
        span: tuple[int, int],
        each: Callable[[memoryview, int], None],
        told: Callable[[], Any],
        then: Callable[[Any], None],
    ) -> None:
        """Hand bytes of the first of some ranks to the others, which `each` gives and takes."""


def who_shares(directory: Path, job: Job, what: str) -> tuple[int, list[int]]:
    """Return the rank that acts for this one in a directory, and all that act; call it on every rank.

    Args:
        directory: Where marks are left, this rank's spelling of it; made where it is missing.
        job: All ranks.
        what: What it is for, for messages.

    Raises:
        SaveError: The directory can't be written.
        PeerFailedError: A rank failed or is missing.
    """
    nonce = job.agree(what, lambda: secrets.token_hex(8))
    own = temporary_name(directory / f"{nonce}.{job.rank}")  # which is swept when this process is killed
    try:
        job.agree(what, lambda: _leave(own) if job.leads_node else None)
        seen = _seen(directory, nonce)
        if not job.agree(what, lambda: bool(seen), merge=all):  # the launcher's nodes are not who sees it
            job.agree(what, lambda: None if seen else _leave(own))
            seen = seen or _seen(directory, nonce)
        leaders = job.agree(what, lambda: [min(seen)], merge=united)
    finally:
        remove_file(own)
    return min(seen), leaders


def _seen(directory: Path, nonce: str) -> list[int]:
    """Return the ranks whose marks are seen."""
    return [int(path.name.split(".")[2]) for path in directory.glob(f".{nonce}.*")]


def _leave(mark: Path) -> None:
    try:
        make_directory(mark.parent)
        mark.touch()
    except OSError as error:
        raise SaveError(path=str(mark.parent), problem=f"it can't be written ({error.strerror})") from error


def united(many: list[list[int]]) -> list[int]:
    """Return all ranks of several lists, in order: how lists of ranks are merged."""
    return sorted({rank for part in many for rank in part})
