"""The same choice on every rank: made once, by rank 0, and told with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.remote import Remote
from linnaeus.resuming._choose import Choice, choose
from linnaeus.runs import read_checkpoint


def choose_together(
    group: Group,
    directory: Path,
    *,
    auto: bool,
    named: str | None,
    resolve: Callable[[str], Path],
    bucket: Remote | None = None,
) -> Choice | None:
    """Return what to resume from, the same on every rank; call it on every rank.

    Args:
        group: All ranks.
        directory: The run's checkpoints, as for `choose`, which rank 0 looks at.
        auto: As for `choose`.
        named: As for `choose`.
        resolve: As for `choose`; called on every rank, or on none.
        bucket: As for `choose`; rank 0's.

    Raises:
        LinnaeusError: What `choose` raised, on every rank.
        CheckpointNotFoundError: Some rank does not see the chosen file.
        PeerFailedError: Another rank is missing, or does not see it.
    """

    def decide(resolve: Callable[[str], Path]) -> dict[str, Any] | None:
        try:
            choice = choose(directory, auto=auto, named=named, resolve=resolve, bucket=bucket)
        except _WantedError:
            return {"wanted": True}
        if choice is None:
            return None
        return {
            "wanted": False,
            "path": str(choice.path),
            "reason": choice.reason,
            "passed_over": [*choice.passed_over],
            "size_bytes": pth.size_of(choice.path),
        }

    if group.world_size == 1:
        return choose(directory, auto=auto, named=named, resolve=resolve, bucket=bucket)
    found = group.decide_once("which checkpoint to resume", lambda: decide(_want))
    if found is not None and found["wanted"] and named is not None:
        fetched = resolve(named)
        found = group.decide_once("which checkpoint to resume", lambda: decide(lambda _: fetched))
    if found is None:
        return None
    path = Path(found["path"])
    group.agree(f"looking at {path}", lambda: _require_same(path, found["size_bytes"], group.rank))
    return Choice(read_checkpoint(path), found["reason"], found["passed_over"])


class _WantedError(Exception):
    """The named checkpoint is needed, which takes all ranks to get."""


def _want(name: str) -> Path:
    raise _WantedError(name)


def _require_same(path: Path, size_bytes: int, rank: int) -> None:
    """Check that this rank sees the file that rank 0 saw, not another of its name on another disk."""
    seen = pth.size_of(path) if path.exists() else None
    if seen != size_bytes:
        what = "there is no such file" if seen is None else f"its size is {seen}, not {size_bytes} bytes"
        raise CheckpointNotFoundError(
            identifier=str(path),
            places=[f"rank {rank} does not see what rank 0 sees: {what}"],
            advice="All ranks need a directory that they share.",
        )
