"""An object as the entries of a directory of shards: what each is called, and which rank writes which of it.

The names are those of `torch.distributed.checkpoint`, so its own loader finds everything; the description,
which tells the structure, is that of a `.pth`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from linnaeus.pth._build import DTYPES
from linnaeus.pth._document import compose, numbered
from linnaeus.pth._emit import RefusedError, Storage
from linnaeus.pth._emit_tensors import emit
from linnaeus.pth._parted import blocks
from linnaeus.pth._shares import Piece, Shares
from linnaeus.pth._tape import Memory, Still, Tapes

# What is written at a time: a rank's own memory for it is bounded by this, wherever its tensors are.
BLOCK_BYTES = 64 << 20


class Block(NamedTuple):
    """A box of entry `number` that this rank writes; `source` gives its elements when they are written.

    `is_split` tells that ranks have different parts of the entry, so that few of them will read this one.
    """

    number: int
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    source: Callable[[], torch.Tensor]
    is_split: bool = False

    @property
    def num_elements(self) -> int:
        """How many."""
        return math.prod(self.shape)


class Spot(NamedTuple):
    """A tensor of the object: where it is in its storage."""

    storage: Storage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def first_byte(self) -> int:
        """Where it begins in its storage."""
        return self.offset * self.dtype.itemsize

    @property
    def order(self) -> list[int] | None:
        """Its dimensions from the slowest to the fastest, if its elements lie together."""
        order = sorted(range(len(self.shape)), key=lambda dim: (-self.stride[dim], dim))
        step = 1
        for dim in reversed(order):
            if self.shape[dim] != 1 and self.stride[dim] != step:
                return None
            step *= self.shape[dim]
        return order

    @property
    def is_all(self) -> bool:
        """Whether it fills its storage."""
        return self.offset == 0 and self.size_bytes == self.storage.size_bytes and self.order is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a directory consists of.

    Attributes:
        spots: Each tensor that has an entry of its own; None for one without bytes, and another's alias.
        names: Under which name the bytes of each tensor are kept.
        aliases: Other names under which torch's loader looks for a tensor, by number.
        values: What is no tensor, by name.
        paths: The keys that lead to each name.
        describe: From what the directory shall say of itself to the description's bytes.
        storages: What has bytes.
    """

    spots: Sequence[Spot | None]
    names: Sequence[str]
    aliases: Sequence[tuple[str, int]]
    values: Mapping[str, Any]
    paths: Mapping[str, tuple[Any, ...]]
    describe: Callable[[Mapping[str, Any]], bytes]
    storages: Sequence[Storage]

    @property
    def size_bytes(self) -> int:
        """Of all storages."""
        return sum(storage.size_bytes for storage in self.storages)

    def digest(self, shares: Shares) -> str:
        """Return what all ranks must have in common."""
        kinds = [
            spot and (name, str(spot.dtype), spot.shape, shares.kind(spot.storage.source))
            for name, spot in zip(self.names, self.spots, strict=True)
        ]
        return hashlib.sha256(repr(kinds).encode()).hexdigest()

    def blocks(
        self,
        shares: Shares,
        rank: int,
        world_size: int,
        most_bytes: int = BLOCK_BYTES,
        tapes: Tapes | None = None,
    ) -> Iterator[Block]:
        """Yield what a rank writes, in blocks of at most so many bytes; first what every rank will read.

        Args:
            shares: What it has.
            rank: Its number.
            world_size: How many there are.
            most_bytes: How large a block may be.
            tapes: How to read memory that may change. Then each block is good until the next one is asked
                for its elements, and they must be asked in this order.

        Raises:
            RefusedError: Several ranks have parts of memory that several tensors share.
        """
        inside: dict[int, list[tuple[Spot, int]]] = {}
        for number, spot in enumerate(self.spots):
            if spot is not None:
                inside.setdefault(spot.storage.key, []).append((spot, number))
        split = {one.key for one in self.storages if shares.kind(one.source) == "split"}
        ordered = sorted(self.storages, key=lambda storage: storage.key in split)
        for key, piece in shares.pieces(ordered, rank, world_size):
            memory = tapes.of(piece.source.untyped_storage()) if tapes else Still(piece.source)
            for block in self._of(inside.get(key, []), piece, memory, most_bytes):
                yield block._replace(is_split=key in split)

    def _of(
        self, found: Sequence[tuple[Spot, int]], piece: Piece, memory: Memory, most_bytes: int
    ) -> Iterator[Block]:
        """Yield the blocks of a piece of a storage, in which these are."""
        if len(found) == 1 and found[0][0].is_all:
            yield from _of_run(*found[0], (piece.start, piece.size_bytes), memory.part, most_bytes)
        elif piece.start or piece.size_bytes != found[0][0].storage.size_bytes:
            raise RefusedError(f"{self.names[found[0][1]]} shares memory that several ranks hold")
        else:
            yield from _of_shared(sorted(found, key=_first_byte), memory, most_bytes)


def _first_byte(found: tuple[Spot, int]) -> int:
    return found[0].first_byte


def _of_shared(found: Sequence[tuple[Spot, int]], memory: Memory, most_bytes: int) -> Iterator[Block]:
    """Yield the blocks of tensors in one storage, all of which this rank has; in their order there."""
    dense = all(spot.order is not None for spot, _ in found)
    apart = all(one.first_byte + one.size_bytes <= two.first_byte for (one, _), (two, _) in pairwise(found))
    for spot, number in found:
        if dense and apart:
            first = spot.first_byte
            part = lambda start, end, first=first: memory.part(first + start, first + end)  # noqa: E731
            yield from _of_run(spot, number, (0, spot.size_bytes), part, most_bytes)
        else:  # tangled, so that it takes all of the storage
            for start, shape in blocks(spot.shape, spot.dtype.itemsize, most_bytes):
                yield Block(number, start, shape, partial(_box, spot, start, shape, memory))


def _of_run(
    spot: Spot,
    number: int,
    run: tuple[int, int],
    part: Callable[[int, int], torch.Tensor],
    most_bytes: int,
) -> Iterator[Block]:
    """Yield the boxes that a run of a tensor's bytes consists of.

    Args:
        spot: The tensor, which is dense.
        number: Its number.
        run: Where the run begins in the tensor, and how many bytes it has.
        part: Returns some of them, counted from the run's beginning.
        most_bytes: How large a box may be.
    """
    width, order = spot.dtype.itemsize, spot.order or []
    turned = [spot.shape[dim] for dim in order]
    back = sorted(range(len(order)), key=lambda place: order[place])
    position = 0
    for box, size in boxes(turned, run[0] // width, sum(run) // width):
        for start, shape in blocks(size, width, most_bytes):
            end = position + math.prod(shape) * width
            offsets = [box[dim] + start[dim] for dim in back]
            yield Block(
                number,
                tuple(offsets),
                tuple(shape[dim] for dim in back),
                lambda place=(position, end), shape=shape: (  # type: ignore[misc]
                    part(*place).view(spot.dtype).view(shape).permute(back)
                ),
            )
            position = end


def boxes(shape: Sequence[int], first: int, last: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (start, shape) of the boxes that are elements `first` to before `last` of a tensor, in order."""
    if first >= last:
        return
    if not shape:
        yield (), ()
        return
    row, rest = math.prod(shape[1:]), (0,) * (len(shape) - 1)
    (begin, into), (end, beyond) = divmod(first, row), divmod(last, row)
    if into or begin == end:
        stop = beyond if begin == end else row
        yield from (((begin, *start), (1, *size)) for start, size in boxes(shape[1:], into, stop))
        begin += 1
    if begin < end:
        yield (begin, *rest), (end - begin, *shape[1:])
    if beyond and begin <= end:
        yield from (((end, *start), (1, *size)) for start, size in boxes(shape[1:], 0, beyond))


def _box(spot: Spot, start: Sequence[int], shape: Sequence[int], memory: Memory) -> torch.Tensor:
    """Return a box of a tensor that lies somehow in a storage."""
    flat = memory.whole()
    first = flat.storage_offset() // spot.dtype.itemsize
    empty: Any = torch.empty(0, dtype=spot.dtype, device=flat.device)
    made: torch.Tensor = empty.set_(flat.untyped_storage(), first + spot.offset, spot.shape, spot.stride)
    return made[tuple(slice(at, at + length) for at, length in zip(start, shape, strict=True))]


def plan_of(obj: Any) -> Plan:
    """Take an object apart.

    Raises:
        RefusedError: It holds something that a directory can't.
    """
    if not isinstance(obj, dict):
        raise RefusedError(f"the object is a {type(obj).__name__} where a directory of shards holds a dict")
    emission = emit(obj)
    entries = [json.loads(text) for text in emission.tensors]
    flat, paths = _flat(obj)
    own, names, aliases = _names(json.loads(emission.tree), entries, flat)
    _require_plain(names, entries)
    sizes = [storage.size_bytes for storage in emission.storages]
    places = list(zip(accumulate(sizes, initial=0), sizes, strict=False))
    by_key = {storage.key: storage for storage in emission.storages}
    return Plan(
        [_spot(entry, by_key) if number == own[number] else None for number, entry in enumerate(entries)],
        names,
        aliases,
        {name: value for name, value in flat.items() if not isinstance(value, torch.Tensor)},
        paths | {name: (name,) for name in names if name not in paths},
        lambda about: compose(emission.tensors, emission.tree, places, about),
        emission.storages,
    )


def _spot(entry: Any, by_key: Mapping[int, Storage]) -> Spot | None:
    key, dtype, shape, stride, offset, *_ = entry
    return None if key is None else Spot(by_key[key], DTYPES[dtype], tuple(shape), tuple(stride), offset)


def _require_plain(names: Sequence[str], entries: Sequence[Any]) -> None:
    for name, (_, dtype, _, _, _, *marks) in zip(names, entries, strict=True):
        if dtype.startswith("q") or {"conj", "neg"} & {*marks}:
            raise RefusedError(f"{name} is a tensor of an unusual kind ({' '.join([dtype, *marks])})")


def _flat(obj: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    try:
        return flatten_state_dict(obj)
    except ValueError as error:
        raise RefusedError(f"two of its values have the same dotted name ({error})") from error


def _names(
    tree: Any, entries: Sequence[Any], flat: Mapping[str, Any]
) -> tuple[list[int], list[str], list[tuple[str, int]]]:
    """Return whose bytes each tensor has, under which name they are kept, and the names only torch needs."""
    first: dict[int, str] = {}
    for name, number in numbered(tree):
        first.setdefault(number, name)
    if len({*first.values()}) != len(entries):
        raise RefusedError("two of its tensors have the same dotted name")
    owners: dict[str, int] = {}
    # Tensors that are one and the same, but for gradients, are kept once: tied weights are, in a state dict.
    own = [owners.setdefault(repr(entry[:5]), number) for number, entry in enumerate(entries)]
    own = [mine if entries[number][0] is not None else number for number, mine in enumerate(own)]
    by_id = {id(flat[name]): number for number, name in first.items() if name in flat}
    aliases = []
    for name, value in flat.items():
        if isinstance(value, torch.Tensor):
            number = by_id.get(id(value), -1)
            if number < 0:
                raise RefusedError(f"{name} is a {value.layout} tensor")
            if first[own[number]] != name:
                aliases.append((name, own[number]))
    return own, [first[own[number]] for number in range(len(entries))], aliases


def value_bytes(value: Any) -> io.BytesIO:
    """Return a value as torch's loader expects it."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream
