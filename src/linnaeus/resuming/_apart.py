"""Checkpoints that nodes without a shared directory wrote together, of which each has a part.

Such a checkpoint is whole when every file of it is on some node that is here. Which those are is told by its
commit file, the same on all nodes; what a node lacks it is handed by one that has it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.files import commit_directory, set_aside, temporary_name
from linnaeus.resolving import facts_of, pass_files
from linnaeus.runs import RunCheckpoint, list_checkpoints, read_checkpoint

_log = logging.getLogger(__name__)

_WHAT = "joining what the nodes have of a checkpoint"

_Told = Mapping[str, Any]
Needed = Callable[[Path], set[str]] | None


class Transfer(NamedTuple):
    """Files of one rank's directory that some others get."""

    source: int
    members: Sequence[int]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sharing:
    """The nodes, as one rank takes part in handing files on.

    Attributes:
        group: All ranks.
        leader: The rank that acts for this one's node.
        needed: Returns which files of a directory this rank will read; None for all.
    """

    group: Group
    leader: int
    needed: Needed

    @property
    def leads(self) -> bool:
        """Whether this rank acts for its node."""
        return self.leader == self.group.rank

    def wanted(self, path: Path) -> list[str]:
        """Return which files of a directory this rank's node must have for it."""
        if self.needed is None or read_checkpoint(path).num_directories == 1:
            return [*pth.files_told_of(path)]
        return sorted(self.needed(path))


@dataclass(frozen=True, slots=True)
class Whole:
    """A checkpoint that the nodes have all files of.

    Attributes:
        name: Of its directory.
        digest: Of its commit file.
        order: By which newer and older is decided.
    """

    name: str
    digest: str
    order: tuple[int, int]


def digest_of_directory(path: Path) -> str:
    """Return what tells directories of shards from each other: a digest of their commit file."""
    data = (path / pth.COMMIT).read_bytes() if (path / pth.COMMIT).is_file() else b""
    return hashlib.sha256(data).hexdigest()


def newest_whole(
    group: Group, directory: Path, newer_than: Sequence[int], *, leads: bool
) -> tuple[Whole | None, list[str]]:
    """Return the newest checkpoint of which every file is on some node and good; call it on every rank.

    Args:
        group: All ranks.
        directory: The run's checkpoints, as this rank spells it.
        newer_than: The order of a checkpoint that is there without this.
        leads: Whether this rank acts for its node.

    Returns:
        It, if there is one, and why newer ones are not.

    Raises:
        PeerFailedError: A rank is gone.
    """
    parts = [one for one in list_checkpoints(directory) if one.is_part] if leads else []
    parts = [one for one in parts if [*one.order] > [*newer_than]]
    told = group.agree(_WHAT, lambda: [_told(one) for one in parts], merge=_joined, conclude=_united)
    passed_over: list[str] = [*told["lost"]]
    for one in told["whole"]:
        damaged = _damages_anywhere(group, [part.path for part in parts if part.name == one["name"]])
        if not damaged:
            return Whole(one["name"], one["digest"], tuple(one["order"])), passed_over
        passed_over += damaged
    for problem in passed_over if group.rank == 0 else ():
        _log.warning("passed over %s", problem)
    return None, passed_over


def _told(part: RunCheckpoint) -> _Told:
    digest = digest_of_directory(part.path)
    return {"name": part.name, "digest": digest, "order": [*part.order], "absent": [*part.absent]}


def _joined(many: list[list[Any]]) -> list[Any]:
    return [one for part in many for one in part]


def _united(parts: Sequence[_Told]) -> dict[str, Any]:
    """Return which checkpoints are whole, newest first, and why others are not."""
    kinds: dict[tuple[str, str], list[_Told]] = {}
    for part in parts:
        kinds.setdefault((part["name"], part["digest"]), []).append(part)
    whole, lost = [], []
    for (name, digest), same in kinds.items():
        nowhere = sorted(set.intersection(*({*part["absent"]} for part in same)))
        if nowhere:
            lost.append(f"{name}: no node that is here has {', '.join(nowhere[:3])}{_more(nowhere)}")
        else:
            whole.append({"name": name, "digest": digest, "order": same[0]["order"]})
    return {"whole": sorted(whole, key=lambda one: one["order"], reverse=True), "lost": lost}


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""


def _damages_anywhere(group: Group, mine: Sequence[Path]) -> list[str]:
    """Check what the nodes have, which takes as long as it takes; return what is wrong on any of them."""
    found: list[str] = []
    group.decide_apart(_WHAT, group.rank, lambda _: found.extend(_damages(mine)))
    damaged: list[str] = group.agree(_WHAT, lambda: found, merge=_joined)
    return damaged


def _damages(paths: Sequence[Path]) -> list[str]:
    """Return what is wrong with the parts that this node has."""
    errors = [pth.verify(path, partly=True).error for path in paths]
    return [str(error) for error in errors if error is not None]


def gather(sharing: Sharing, path: Path, digest: str, *, are_checked: bool) -> None:
    """Hand every node what it lacks of a directory, each file of which some node has; call it on every rank.

    Args:
        sharing: The nodes.
        path: The directory, as this rank spells it.
        digest: Its `digest_of_directory`; another one of that name is moved aside, and so is a damaged one.
        are_checked: Whether what the nodes have is known to be good.

    Raises:
        LinnaeusError: What was raised on any rank, on every rank.
    """
    group, held = sharing.group, list[dict[str, Any]]()

    def look(_: Any) -> None:
        same = digest_of_directory(path) == digest
        held.append(_holding(group.rank, path, has=same and (are_checked or not _damages([path]))))

    group.decide_apart(_WHAT, group.rank, look if sharing.leads else lambda _: None)
    told = group.agree(_WHAT, lambda: held, merge=_joined)
    lacks = bool(held) and not held[0]["here"]
    target = temporary_name(path) if lacks else path
    first = _first_names(told)
    _pass(group, transfers(told, [(one["rank"], first) for one in told if not one["here"]]), path, target)
    group.agree(_WHAT, lambda: _publish(target, path) if lacks else None, alike=True)
    told = [{**one, "here": one["here"] or first} for one in told]
    wanted = group.agree(_WHAT, lambda: [[sharing.leader, sharing.wanted(path)]], merge=_joined, alike=True)
    _pass(group, transfers(told, wanted), path, path)


def _pass(group: Group, transfers: Sequence[Transfer], path: Path, target: Path) -> None:
    for source, members, names in transfers:
        facts = group.decide_once(_WHAT, partial(facts_of, path, names), by=source)
        pass_files(group, _WHAT, [source, *members], facts, path if group.rank == source else target)


def _holding(rank: int, path: Path, *, has: bool) -> dict[str, Any]:
    """Tell which files of a directory this node has; none where it has another."""
    told = read_checkpoint(path) if has else None
    if told is None:
        return {"rank": rank, "here": [], "is_apart": True}
    here = [name for name in pth.files_told_of(path) if name not in told.absent]
    return {"rank": rank, "here": here, "is_apart": told.num_directories > 1}


def _first_names(told: Sequence[_Told]) -> list[str]:
    """Return what nodes that have nothing get first: of a directory that may be in parts, no shards."""
    names = {name for one in told for name in one["here"]}
    return sorted(names & {pth.METADATA, pth.COMMIT} if all(one["is_apart"] for one in told) else names)


def transfers(told: Sequence[_Told], wanted: Sequence[tuple[int, Sequence[str]]]) -> list[Transfer]:
    """Return who hands which files to whom: each file by the lowest rank that has it. Pure.

    Args:
        told: Of each node, the rank that acts and the names of the files that are `here`.
        wanted: Ranks that act, each with names of files that some rank of its node needs.
    """
    holders: dict[str, int] = {}
    for one in sorted(told, key=lambda one: one["rank"]):
        for name in one["here"]:
            holders.setdefault(name, one["rank"])
    have = {one["rank"]: {*one["here"]} for one in told}
    needing: dict[str, set[int]] = {}
    for rank, names in wanted:
        for name in {*names} - have[rank]:
            needing.setdefault(name, set()).add(rank)
    planned: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, ranks in sorted(needing.items()):
        planned.setdefault((holders[name], tuple(sorted(ranks))), []).append(name)
    return [Transfer(source, members, names) for (source, members), names in planned.items()]


def _publish(arrived: Path, path: Path) -> None:
    if path.exists():
        aside = set_aside(path, ".replaced")
        _log.warning("moved %s aside to %s: the other nodes' one is gone on with", path, aside.name)
    commit_directory(arrived, path)


def move_aside_newer(directory: Path, order: Sequence[int], suffix: str) -> None:
    """Move aside this node's parts of checkpoints that are newer than the one that is gone on with."""
    for one in list_checkpoints(directory):
        if one.is_part and [*one.order] > [*order]:
            _log.warning("moved %s aside to %s", one.name, set_aside(one.path, suffix).name)
