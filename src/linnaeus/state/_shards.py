"""What part of a whole tensor a rank has, as bytes of a file: to write its own, and to read only that.

A shard is a box inside the whole tensor, so its bytes are runs of equal length: one run for `Shard(0)`, one
for each row for `Shard(1)`. Where runs are so short that writing each would be absurd, the tensor is passed
between the ranks first, so that each has rows; one tensor at a time, never the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from linnaeus.pth import Piece, Shares, region

# Shorter runs cost more in calls than their bytes.
_SHORTEST_RUN_BYTES = 32 << 10


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return a rank's own part of a tensor: the tensor itself unless it is distributed."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def holds_shards(model: torch.nn.Module) -> bool:
    """Tell whether parameters are distributed, be it over one rank."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def tensors_in(node: Any) -> Iterator[torch.Tensor]:
    """Yield what this rank has of every tensor in a state."""
    if isinstance(node, torch.Tensor):
        yield local(node)
    elif isinstance(node, (Mapping, list, tuple)):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from tensors_in(item)


Box = tuple[tuple[int, ...], tuple[int, ...]]


class Boxes:
    """Where a rank's parts of distributed tensors lie: found once for each kind, of which there are few."""

    def __init__(self) -> None:
        self._boxes: dict[Any, Box] = {}
        self._moves: dict[Any, bool] = {}

    def of(self, tensor: DTensor) -> Box:
        """Return shape and offsets of this rank's part."""
        key = tensor.shape, tensor.device_mesh, tensor.placements
        if key not in self._boxes:
            shape, offsets = compute_local_shape_and_global_offset(*key)
            self._boxes[key] = tuple(shape), tuple(offsets)
        return self._boxes[key]

    def must_move(self, tensor: DTensor) -> bool:
        """Tell whether a tensor's parts are too scattered to be written; the same on every rank."""
        key = tensor.shape, tensor.device_mesh, tensor.placements, tensor.dtype
        if key not in self._moves:
            self._moves[key] = _must_move(tensor)
        return self._moves[key]


def share(tensor: DTensor, shares: Shares) -> torch.Tensor:
    """Return the stand-in for a distributed tensor that is passed between ranks when it is written."""

    def pieces() -> Sequence[Piece]:  # a collective
        moved = in_rows(tensor)
        return pieces_of(moved, moved._local_tensor.detach().contiguous(), Boxes())

    return shares.split(tuple(tensor.shape), tensor.dtype, pieces)


def pieces_of(tensor: DTensor, mine: torch.Tensor, boxes: Boxes) -> list[Piece]:
    """Return the runs of bytes that this rank writes of a tensor; replicas write a part each.

    Args:
        tensor: Tells how it is distributed.
        mine: This rank's part of it, contiguous, for as long as the pieces are used.
        boxes: Where parts lie.
    """
    if not mine.numel():
        return []
    shape, offsets = boxes.of(tensor)
    width = tensor.dtype.itemsize
    size = _run_length(tuple(tensor.shape), shape) * width
    starts = _run_starts(tuple(tensor.shape), shape, offsets)
    number, count = _replica(tensor)
    if len(starts) == 1:
        first, last = (size // width * bound // count * width for bound in (number, number + 1))
        runs = [(starts[0] * width + first, first, last)]
    else:
        spans = [(start * width, index * size, (index + 1) * size) for index, start in enumerate(starts)]
        runs = spans[number::count]
    base, storage = int(mine.storage_offset()) * width, mine.untyped_storage()
    made = [Piece(start, region(storage, base + first, base + last)) for start, first, last in runs]
    return [piece for piece in made if piece.size_bytes]


def own_box(tensor: DTensor) -> tuple[torch.Tensor, tuple[tuple[int, int], ...]]:
    """Return this rank's part of a distributed tensor, and for each dimension where it begins and its length.

    Raises:
        ValueError: Each rank has a summand of it, which is no part.
    """
    if any(isinstance(placement, Partial) for placement in tensor.placements):
        raise ValueError("a tensor of which each rank has a summand has no parts")
    shape, offsets = Boxes().of(tensor)
    return tensor._local_tensor, tuple(zip(offsets, shape, strict=True))


def shard_of(whole: torch.Tensor, like: DTensor, boxes: Boxes) -> DTensor:
    """Return a whole tensor, usually of a mapped file, distributed like another, without a copy.

    Only this rank's part is touched, and that only when it is read.
    """
    shape, offsets = boxes.of(like)
    part = whole[tuple(slice(start, start + length) for start, length in zip(offsets, shape, strict=True))]
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _run_length(whole: tuple[int, ...], part: tuple[int, ...]) -> int:
    """Return how many elements of a part lie together in the whole."""
    length = 1
    for all_of_it, some in zip(reversed(whole), reversed(part), strict=True):
        length *= some
        if some != all_of_it:
            break
    return length


def _run_starts(whole: tuple[int, ...], part: tuple[int, ...], offsets: tuple[int, ...]) -> list[int]:
    """Return the element in the whole at which each run of a part begins, rising."""
    last = max((dim for dim in range(len(whole)) if whole[dim] != part[dim]), default=0)
    steps = [math.prod(whole[dim + 1 :]) for dim in range(len(whole))]
    starts = [sum(offset * step for offset, step in zip(offsets, steps, strict=True))]
    for dim in range(last):
        starts = [start + index * steps[dim] for start in starts for index in range(part[dim])]
    return starts


def _replica(tensor: DTensor) -> tuple[int, int]:
    """Return which of the ranks with the same part this one is, and how many there are."""
    number, count = 0, 1
    coordinates: Any = tensor.device_mesh.get_coordinate()
    for dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            size = tensor.device_mesh.size(dim)
            number, count = number * size + coordinates[dim], count * size
    return number, count


def _must_move(tensor: DTensor) -> bool:
    """Tell whether a tensor's runs are absurdly short; the same on every rank, as it takes all to move it."""
    if any(isinstance(placement, Partial) for placement in tensor.placements):
        return True
    part = list(tensor.shape)
    for dim, placement in enumerate(tensor.placements):
        if not isinstance(placement, Replicate):
            sharded = placement.dim  # type: ignore[attr-defined]
            part[sharded] = math.ceil(part[sharded] / tensor.device_mesh.size(dim))
    length = _run_length(tuple(tensor.shape), tuple(part))
    return length < math.prod(part) and length * tensor.dtype.itemsize < _SHORTEST_RUN_BYTES


def in_rows(tensor: DTensor) -> DTensor:
    """Return a tensor of which each rank has rows; a collective."""
    detached: Any = tensor.detach()
    moved: DTensor = detached.redistribute(placements=[Shard(0)] * tensor.device_mesh.ndim)
    return moved
