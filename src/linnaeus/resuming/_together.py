"""The same choice on every rank: made once, by rank 0, and told with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from linnaeus.distributed import Group
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.remote import Remote
from linnaeus.resuming._apart import move_aside_newer
from linnaeus.resuming._choose import ASIDE_SUFFIX, Choice, choose
from linnaeus.resuming._everywhere import alone, digest_of, meet_nodes
from linnaeus.runs import read_checkpoint


def choose_together(
    group: Group,
    directory: Path,
    *,
    auto: bool,
    named: str | None,
    resolve: Callable[[str], Path],
    bucket: Remote | None = None,
    needed: Callable[[Path], set[str]] | None = None,
) -> Choice | None:
    """Return what to resume from, the same on every rank; call it on every rank.

    Args:
        group: All ranks.
        directory: The run's checkpoints, as for `choose`. Where ranks see different directories, each gets
            the newest checkpoint that any of them has.
        auto: As for `choose`.
        named: As for `choose`.
        resolve: As for `choose`; called on every rank, or on none.
        bucket: As for `choose`; rank 0's.
        needed: Returns which files of a directory of shards this rank will read, so that its node need not
            have the others; None for all.

    Raises:
        LinnaeusError: What `choose` raised, on every rank.
        CheckpointNotFoundError: Some rank does not see the chosen file.
        PeerFailedError: Another rank is missing, or does not see it.
    """

    def decide(resolve: Callable[[str], Path]) -> dict[str, Any] | None:
        try:
            choice = choose(directory, auto=auto, named=named, resolve=resolve, bucket=bucket, whole=whole)
        except _WantedError:
            return {"wanted": True}
        if choice is None:
            return None
        return {
            "wanted": False,
            "path": str(choice.path),
            "own": choice.path.parent == directory,
            "digest": digest_of(choice.path) if nodes.are_apart else None,
            "reason": choice.reason,
            "passed_over": [*choice.passed_over],
            "order": [*choice.checkpoint.order],
            "size_bytes": choice.checkpoint.size_bytes,
        }

    if group.world_size == 1:
        return choose(directory, auto=auto, named=named, resolve=resolve, bucket=bucket)
    nodes = meet_nodes(group, directory, needed) if auto else alone(group, directory)
    whole = nodes.whole if nodes.are_apart else None
    found = group.decide_once("which checkpoint to resume", lambda: decide(_want))
    fetched: Path | None = None
    if found is not None and found["wanted"] and named is not None:
        path = fetched = resolve(named)
        found = group.decide_once("which checkpoint to resume", lambda: decide(lambda _: path))
    if found is None or not found["own"]:
        nodes.refuse_to_pass_over()
    if found is None:
        return None
    path = Path(found["path"])
    if found["own"] and nodes.are_apart:
        nodes.share(path.name, 0, found["digest"])
        path = directory / path.name
        if nodes.leads:
            move_aside_newer(directory, found["order"], ASIDE_SUFFIX)
    elif fetched is not None and not found["own"]:
        path = fetched  # as this rank spells it
    group.agree(f"looking at {path}", lambda: _require_same(path, found["size_bytes"], group.rank))
    passed_over = [*nodes.passed_over, *found["passed_over"]]
    return Choice(read_checkpoint(path), found["reason"], passed_over)


class _WantedError(Exception):
    """The named checkpoint is needed, which takes all ranks to get."""


def _want(name: str) -> Path:
    raise _WantedError(name)


def _require_same(path: Path, size_bytes: int, rank: int) -> None:
    """Check that this rank sees the file that rank 0 saw, not another of its name on another disk."""
    seen = read_checkpoint(path).size_bytes if path.exists() else None
    if seen != size_bytes:
        what = "there is no such file" if seen is None else f"its size is {seen}, not {size_bytes} bytes"
        raise CheckpointNotFoundError(
            identifier=str(path),
            places=[f"rank {rank} does not see what rank 0 sees: {what}"],
            advice="All ranks need a directory that they share.",
        )
