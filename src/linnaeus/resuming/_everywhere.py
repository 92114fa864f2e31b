"""Runs whose ranks do not all see one directory: every node gets the checkpoint that is gone on with.

A node may come back with an empty disk, or with an older one. The newest valid checkpoint of any node counts;
one rank of each node that lacks it gets it from one that has it, and checks it to its last byte before it
stands under its name. Of a checkpoint that the nodes wrote in parts, each gets what it lacks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import CheckpointInvalidError
from linnaeus.files import set_aside
from linnaeus.resolving import facts_of, pass_on, who_shares
from linnaeus.resuming._apart import Needed, Sharing, digest_of_directory, gather, newest_whole
from linnaeus.resuming._choose import choose_newest

_log = logging.getLogger(__name__)

_WHAT = "bringing the newest checkpoint to all nodes"
_OTHER_SUFFIX = ".replaced"
_END_BYTES = 16 << 20

_Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The ranks that act each for all that see the same directory.

    Attributes:
        group: All ranks.
        directory: The run's checkpoints, as this rank spells it.
        leaders: The ranks that act, rising.
        sharing: How this node gets what it lacks of a directory of shards.
        verified: What this rank has found to be valid in its directory: digests of ends, by name.
        problem: Of a node where nothing is usable, what to raise if nothing is found elsewhere.
        whole: Names of directories of which this node has a part, and all nodes together everything.
        passed_over: Why newer ones of that kind are not gone on from.
    """

    group: Group
    directory: Path
    leaders: Sequence[int]
    sharing: Sharing
    verified: dict[str, str] = field(default_factory=dict)
    problem: Mapping[str, Any] | None = None
    whole: set[str] = field(default_factory=set)
    passed_over: list[str] = field(default_factory=list)

    @property
    def are_apart(self) -> bool:
        """Whether there is more than one directory."""
        return len(self.leaders) > 1

    @property
    def leads(self) -> bool:
        """Whether this rank acts."""
        return self.group.rank in self.leaders

    def refuse_to_pass_over(self) -> None:
        """Raise what is wrong where some node has checkpoints of this run and none is usable.

        Raises:
            CheckpointInvalidError: There is such a node.
        """
        if self.problem is not None:
            raise CheckpointInvalidError(**self.problem)

    def share(self, name: str, source: int, digest: str) -> None:
        """See to it that every node has one node's checkpoint; call it on every rank.

        Args:
            name: Its name in the run's directory.
            source: The rank that has it.
            digest: What `digest_of` says of it there.

        Raises:
            LinnaeusError: What was raised on any rank, on every rank.
        """
        path = self.directory / name
        lacks = self.leads and self.group.rank != source and self.verified.get(name) != digest
        lacking = self.group.agree(_WHAT, lambda: [self.group.rank] if lacks else [], merge=_joined)
        if not lacking:
            return
        if path.suffix == pth.SHARDED:
            gather(self.sharing, path, digest, are_checked=False)
            self.verified[name] = digest
            return
        facts = self.group.decide_once(_WHAT, lambda: facts_of(path), by=source)
        self.group.agree(_WHAT, lambda: _make_room(path) if lacks else None)
        pass_on(self.group, _WHAT, [source, *lacking], facts, path, is_cache=False)
        if lacks:
            self.verified[name] = digest
            _log.info("got %s from rank %d", path, source)


def alone(group: Group, directory: Path) -> Nodes:
    """Return the answer where nobody is asked: rank 0 acts for all."""
    return Nodes(group, directory, [0], Sharing(group, 0, None))


def meet_nodes(group: Group, directory: Path, needed: Needed = None) -> Nodes:
    """Return who acts for whom, with every node given the newest valid checkpoint that any of them has.

    Call it on every rank.

    Args:
        group: All ranks.
        directory: The run's checkpoints, as this rank spells it.
        needed: As for `choose_together`.

    Raises:
        LinnaeusError: What was raised on any rank, on every rank.
    """
    leader, leaders = who_shares(directory, group, _WHAT)
    nodes = Nodes(group, directory, leaders, Sharing(group, leader, needed))
    if not nodes.are_apart:
        return nodes
    found: list[_Found] = []
    group.decide_apart(_WHAT, group.rank, lambda _: found.extend(_newest(nodes)))
    nodes.verified.update({one["name"]: one["digest"] for one in found if "name" in one})
    best, problem = group.agree(_WHAT, lambda: found, merge=_joined, conclude=_best)
    order = (-1, -1) if best is None else best["order"]
    whole, passed_over = newest_whole(group, directory, order, leads=nodes.leads)
    nodes.passed_over.extend(passed_over)
    if whole is not None:
        gather(nodes.sharing, directory / whole.name, whole.digest, are_checked=True)
        nodes.verified[whole.name] = whole.digest
        nodes.whole.add(whole.name)
        return nodes
    if best is not None:
        nodes.share(best["name"], best["rank"], best["digest"])
        return nodes
    return replace(nodes, problem=problem or _lost(directory, passed_over))


def _lost(directory: Path, reasons: Sequence[str]) -> Mapping[str, str] | None:
    """Return what to raise where the nodes have nothing but parts that don't join."""
    if not reasons:
        return None
    return {
        "path": str(directory),
        "problem": f"none of this run's checkpoints can be used: {'; '.join(reasons)}",
        "advice": "Start the nodes that have the rest, name another checkpoint with TRAIN.RESUME and"
        " TRAIN.AUTO_RESUME=false, or move these away to start afresh.",
    }


def _newest(nodes: Nodes) -> list[_Found]:
    """Return what the newest valid checkpoint in this node's directory is, or that none is valid."""
    if not nodes.leads:
        return []
    try:
        choice = choose_newest(nodes.directory, whole=())  # parts are judged with those of other nodes
    except CheckpointInvalidError as error:
        return [
            {"rank": nodes.group.rank, "problem": {key: str(value) for key, value in error.fields().items()}}
        ]
    if choice is None:
        return []
    order, digest = [*choice.checkpoint.order], digest_of(choice.path)
    return [{"rank": nodes.group.rank, "name": choice.path.name, "order": order, "digest": digest}]


def _joined(many: list[list[Any]]) -> list[Any]:
    return [one for part in many for one in part]


def _best(found: list[_Found]) -> list[Any]:
    """Return the newest, of equals the lowest rank's, and the first problem."""
    usable = [one for one in found if "problem" not in one]
    problems = [one["problem"] for one in found if "problem" in one]
    best = max(usable, key=lambda one: (one["order"], -one["rank"]), default=None)
    return [best, next(iter(problems), None)]


def digest_of(path: Path) -> str:
    """Return what tells valid files from each other: a digest of size and end, where the checksums are.

    Of a directory of shards, that of its commit file.
    """
    if path.is_dir():
        return digest_of_directory(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(b"%d\n" % size + file.read()).hexdigest()


def _make_room(path: Path) -> None:
    """Move another file of that name aside: a damaged one, or one that another node has in another form."""
    if path.exists():
        aside = set_aside(path, _OTHER_SUFFIX)
        _log.warning("moved %s aside to %s: another node's newest checkpoint has its name", path, aside.name)
