"""What one of several ranks has of a run's state at one instant, to be written while training goes on.

A rank's own parts of distributed tensors are ordinary tensors, so they are snapshot as those of a run of one
process are: parameters and optimizer state guarded where they are, all else copied. What is made of them for
a file (stand-ins for whole tensors, and pieces of them) is left to the writer. Only what takes collectives,
passing tensors between ranks whose parts are too scattered to be written, is done at once, in training's
time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from linnaeus.errors import LinnaeusError
from linnaeus.pth import Shares, collection_paused
from linnaeus.state._guard import Guard
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._rng_of_ranks import RANKS, share_rng
from linnaeus.state._shards import Boxes, in_rows, local, pieces_of, share
from linnaeus.state._snapshot import Snapshot, take_snapshot
from linnaeus.state._spare import SpareMemory

# What a rank may hold of tensors that were passed between ranks, so as not to hold training up.
MOVED_BYTES = 64 << 20


@dataclass(slots=True)
class Share:
    """A rank's share of a run's state.

    Attributes:
        rank: This process's number.
        world_size: How many there are.
        problem: Why this rank can't have its share saved, for all to know.
        position: This rank's own position in the data, JSON values; None where there is one for all.
        is_collective: Whether it takes all ranks' main threads to write it; none goes on before it is.
        streams: This rank's random streams, a row for each.
        boxes: Where this rank's parts of distributed tensors lie.
    """

    rank: int
    world_size: int
    problem: LinnaeusError | None = None
    position: Any = None
    boxes: Boxes = field(default_factory=Boxes)
    _live: Mapping[str, Any] = field(default_factory=dict)
    _snapshot: Snapshot = field(default_factory=lambda: Snapshot({}))
    is_collective: bool = False
    streams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    _alike: frozenset[int] = frozenset()
    _made: tuple[dict[str, Any], Shares] | None = None
    _local_regions: dict[int, list[torch.UntypedStorage]] = field(default_factory=dict)

    @property
    def guard(self) -> Guard | None:
        """Guards the tensors that are the run's own; None when there are none."""
        return self._snapshot.guard

    def release(self, *, hold_seconds: float, no_memory_seconds: float) -> None:
        """Return when parameters and optimizer state may be changed; likewise `Snapshot.release`."""
        self._snapshot.release(hold_seconds=hold_seconds, no_memory_seconds=no_memory_seconds)

    def hold(self) -> None:
        """Sum what is guarded, and wait for what is on its way from a GPU; the first act of a writer.

        Raises:
            TornSaveError: Some of it was changed outside an optimizer's step.
        """
        if self.guard is not None:
            self.guard.presum()  # before all else: until then a change could go unnoticed
        self._snapshot.content  # noqa: B018 - to be waited for
        self._make()

    def whole(self, positions: Sequence[Any] = ()) -> tuple[dict[str, Any], Shares]:
        """Return the state, whole in form, and what of it this rank has.

        Args:
            positions: Those of all ranks, if each has one of its own.
        """
        content, shares = self._make()
        return (content | {"data": {RANKS: [*positions]}} if positions else content), shares

    def regions(self, storage: torch.UntypedStorage) -> Sequence[torch.UntypedStorage]:
        """Return the parts of a guarded storage that this rank writes, each as a storage of its own."""
        _, shares = self._make()
        found = self._local_regions.get(storage._cdata)
        if found is None:
            pieces = shares.region_of(storage, self.rank, self.world_size)
            found = [piece.source.untyped_storage() for piece in pieces if piece.size_bytes]
        return found

    def _make(self) -> tuple[dict[str, Any], Shares]:
        # The guard asks first, under its lock, whichever thread it is that needs to know.
        if self._made is None:
            shares, frozen = Shares(), self._snapshot.layout  # training may be who asks
            with collection_paused():
                content = {k: self._node(value, self._live.get(k), shares) for k, value in frozen.items()}
            if self.streams:
                content["rng"] = share_rng(self.streams, shares, self.rank, self.world_size)
            self._made = content, shares
        return self._made

    def _node(self, frozen: Any, live: Any, shares: Shares) -> Any:
        """Return a frozen state with stand-ins for distributed tensors, whose parts stand there."""
        if isinstance(live, DTensor):
            return share(live, shares) if frozen is None else self._split(frozen, live, shares)
        if isinstance(frozen, torch.Tensor):
            if isinstance(live, torch.Tensor) and self._is_alike(live):
                shares.alike(frozen)
            return frozen
        if not isinstance(live, type(frozen)):  # what was added, beside the run's parts
            return frozen
        if type(frozen) is dict:
            return {key: self._node(value, live[key], shares) for key, value in frozen.items()}
        if type(frozen) is OrderedDict:
            made = OrderedDict((key, self._node(value, live[key], shares)) for key, value in frozen.items())
            vars(made).update(vars(frozen))
            return made
        if type(frozen) in (list, tuple):
            return type(frozen)(self._node(*pair, shares) for pair in zip(frozen, live, strict=True))
        return frozen

    def _is_alike(self, live: torch.Tensor) -> bool:
        is_plain = bool(self._alike) and live.layout is torch.strided
        return is_plain and live.untyped_storage()._cdata in self._alike

    def _split(self, frozen: torch.Tensor, live: DTensor, shares: Shares) -> torch.Tensor:
        pieces = pieces_of(live, frozen, self.boxes)
        known = self._local_regions.setdefault(frozen.untyped_storage()._cdata, [])
        known += [piece.source.untyped_storage() for piece in pieces]
        return shares.split(tuple(live.shape), live.dtype, lambda: pieces)


def take_share(
    parts: RunParts,
    state: Mapping[str, Any],
    more: Mapping[str, Any],
    spare: SpareMemory,
    share: Share,
    *,
    copy: bool,
    is_held: bool,
) -> Share:
    """Complete a rank's share, of a state that the parts have just given.

    Args:
        parts: The run.
        state: The state, distributed tensors in it.
        more: Plain values that stand beside it.
        spare: Memory for copies that become necessary.
        share: What is known of it already.
        copy: Copy everything at once.
        is_held: Whether training is to go on meanwhile, if possible.
    """
    moves = share.boxes.must_move
    moving = sum(_part_bytes(one) for one in _distributed(state) if moves(one))  # the same on every rank
    share.is_collective = moving > (MOVED_BYTES if is_held else 0)
    if moving and not share.is_collective:
        # Passed between ranks so that each has rows of them.
        state = _mapped(state, lambda one: in_rows(one) if moves(one) else one)
    share._live = state
    share._alike = _alike(parts)
    owners: dict[int, torch.Tensor] = {}
    own = _locals(state, moves, owners)
    if share.is_collective or not is_held:
        share._snapshot = Snapshot({**own, **more})
        return share
    share._snapshot = take_snapshot(parts, more, spare, copy=copy, state=own, owners=owners)
    if share.guard is not None:
        share.guard.narrow = share.regions
    return share


def _distributed(node: Any) -> list[DTensor]:
    if isinstance(node, DTensor):
        return [node]
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    return [one for child in children for one in _distributed(child)]


def _part_bytes(tensor: DTensor) -> int:
    return math.ceil(tensor.numel() / tensor.device_mesh.size()) * tensor.dtype.itemsize


def _locals(state: Any, moves: Callable[[DTensor], bool], owners: dict[int, torch.Tensor]) -> Any:
    """Return a state with a rank's own part in the place of each distributed tensor.

    None stands for what is passed between ranks only when it is written. Whose part it is is noted in
    `owners`: what is done to a distributed tensor counts as its version, not its part's.
    """
    made: dict[int, torch.Tensor] = {}

    def own(tensor: DTensor) -> torch.Tensor | None:
        if moves(tensor):
            return None
        if id(tensor) not in made:
            part = local(tensor)
            made[id(tensor)] = mine = part.contiguous()
            if mine is part:
                owners[id(mine)] = tensor
        return made[id(tensor)]

    return _mapped(state, own)


def _mapped(node: Any, function: Callable[[DTensor], Any]) -> Any:
    if isinstance(node, DTensor):
        return function(node)
    if type(node) is dict:
        return {key: _mapped(value, function) for key, value in node.items()}
    if type(node) is OrderedDict:
        made = OrderedDict((key, _mapped(value, function)) for key, value in node.items())
        vars(made).update(vars(node))
        return made
    return type(node)(_mapped(item, function) for item in node) if type(node) in (list, tuple) else node


def _alike(parts: RunParts) -> frozenset[int]:
    """Return the storages, by `_cdata`, that data parallelism keeps equal on all ranks.

    These are parameters and what optimizers know of them. Not buffers: a rank's batch statistics are its own
    until the next forward takes those of rank 0.
    """
    if not isinstance(parts.model, nn.parallel.DistributedDataParallel):
        return frozenset()
    alike: list[torch.Tensor] = list(parts.model.parameters())
    for optimizer in filter(is_optimizer, flatten(parts.optimizer).values()):
        states = optimizer.state.values()
        alike += [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return frozenset([tensor.untyped_storage()._cdata for tensor in alike])
