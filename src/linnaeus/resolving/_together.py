"""One name resolved by all ranks of a job: as few downloads as their caches allow.

Whether ranks share a cache is found out, not configured: one rank of each node leaves a mark in its cache,
and every rank looks which marks it sees. The lowest rank whose mark is seen fetches for all that see it.
While it does, the others wait for its sign of life; when it fails, all raise the same error.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from linnaeus.config import Config
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.files import make_directory, remove_file
from linnaeus.resolving._identifier import check_name, is_absolute
from linnaeus.resolving._resolve import resolve

_MARKS = ".linnaeus"


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

    def decide_apart(self, what: str, deciders: Sequence[int], mine: int, decide: Callable[[], Any]) -> Any:
        """Decide on several ranks at once, each for some others; return the decision of one's own."""


def resolve_together(identifier: str, cfg: Config, job: Job) -> Path:
    """Return the local file that an identifier names, on every rank; call it on every rank.

    Args:
        identifier: As for `resolve`.
        cfg: As for `resolve`, the same on every rank but for directories.
        job: All ranks.

    Raises:
        LinnaeusError: What `resolve` raised on the rank that fetched, on every rank.
        PeerFailedError: A rank is missing.
    """
    if job.world_size == 1 or is_absolute(identifier):
        return resolve(identifier, cfg)
    name, cache = check_name(identifier), Path(cfg.ENV.INPUT.CACHE_DIR)
    what = f"resolving {name}"
    if job.agree(what, lambda: (cache / name).is_file(), merge=all):
        return resolve(name, cfg)
    mine, fetchers = _who_fetches(cache, job, what)
    job.decide_apart(what, fetchers, mine, lambda: str(resolve(name, cfg)))
    job.agree(what, lambda: _seen(cache / name), alike=True)
    return cache / name


def _who_fetches(cache: Path, job: Job, what: str) -> tuple[int, list[int]]:
    """Return the rank that fetches for this one, and all that fetch."""
    nonce = job.agree(what, lambda: secrets.token_hex(8))
    marks = cache / _MARKS
    own = marks / f"{nonce}.{job.rank}.mark"

    def leave() -> None:
        if job.leads_node:
            make_directory(marks)
            own.touch()

    job.agree(what, leave)
    try:
        seen = [int(path.name.split(".")[1]) for path in marks.glob(f"{nonce}.*.mark")]
        mine = min(seen, default=job.rank)  # a node without a leader fetches for itself
        fetchers = job.agree(what, lambda: [mine], merge=_united)
    finally:
        remove_file(own)
    return mine, fetchers


def _united(many: list[list[int]]) -> list[int]:
    return sorted({rank for part in many for rank in part})


def _seen(path: Path) -> None:
    """Check that this rank sees a file that was fetched, perhaps by another one."""
    if path.name not in {entry.name for entry in path.parent.iterdir()}:  # network filesystems look again
        raise CheckpointNotFoundError(
            identifier=path.name,
            places=[f"another rank fetched it, and it is not seen in {path.parent}"],
        )
