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
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from linnaeus.pth._build import DTYPES
from linnaeus.pth._document import compose, numbered
from linnaeus.pth._emit import RefusedError, Storage
from linnaeus.pth._emit_tensors import emit
from linnaeus.pth._parted import blocks
from linnaeus.pth._shares import Piece, Shares

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
        self, shares: Shares, rank: int, world_size: int, most_bytes: int = BLOCK_BYTES
    ) -> Iterator[Block]:
        """Yield what a rank writes, in blocks of at most so many bytes; first what every rank will read.

        Raises:
            RefusedError: Several ranks have parts of memory that several tensors share.
        """
        inside: dict[int, list[int]] = {}
        for number, spot in enumerate(self.spots):
            if spot is not None:
                inside.setdefault(spot.storage.key, []).append(number)
        split = {one.key for one in self.storages if shares.kind(one.source) == "split"}
        ordered = sorted(self.storages, key=lambda storage: storage.key in split)
        for key, piece in shares.pieces(ordered, rank, world_size):
            for block in self._of(key, piece, inside, most_bytes):
                yield block._replace(is_split=key in split)

    def _of(
        self, key: int, piece: Piece, inside: Mapping[int, list[int]], most_bytes: int
    ) -> Iterator[Block]:
        """Yield the blocks of a piece of a storage."""
        numbers = inside.get(key, [])
        spots = [spot for number in numbers if (spot := self.spots[number]) is not None]
        if len(spots) == 1 and (order := order_of(spots[0])) is not None:
            yield from _of_piece(numbers[0], spots[0], order, piece, most_bytes)
        elif piece.start or piece.size_bytes != spots[0].storage.size_bytes:
            raise RefusedError(f"{self.names[numbers[0]]} shares memory that several ranks hold")
        else:
            for number, spot in zip(numbers, spots, strict=True):
                yield from _cut(number, _tensor_of(piece.source, spot), most_bytes)


def order_of(spot: Spot) -> list[int] | None:
    """Return a tensor's dimensions from the slowest to the fastest, if it is all of its storage."""
    order = sorted(range(len(spot.shape)), key=lambda dim: (-spot.stride[dim], dim))
    step = 1
    for dim in reversed(order):
        if spot.shape[dim] != 1 and spot.stride[dim] != step:
            return None
        step *= spot.shape[dim]
    return order if spot.offset == 0 and spot.size_bytes == spot.storage.size_bytes else None


def _of_piece(
    number: int, spot: Spot, order: Sequence[int], piece: Piece, most_bytes: int
) -> Iterator[Block]:
    """Yield the boxes that a run of a tensor's bytes consists of."""
    width = spot.dtype.itemsize
    flat = piece.source.detach().reshape(-1).view(torch.uint8)
    turned = [spot.shape[dim] for dim in order]
    back = sorted(range(len(order)), key=lambda place: order[place])
    position = 0
    for box, size in boxes(turned, piece.start // width, (piece.start + piece.size_bytes) // width):
        for start, shape in blocks(size, width, most_bytes):
            length = math.prod(shape) * width
            part = flat[position : position + length]
            position += length
            offsets = [box[dim] + start[dim] for dim in back]
            yield Block(
                number,
                tuple(offsets),
                tuple(shape[dim] for dim in back),
                lambda part=part, shape=shape: part.view(spot.dtype).view(shape).permute(back),  # type: ignore[misc]
            )


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


def _tensor_of(flat: torch.Tensor, spot: Spot) -> torch.Tensor:
    """Return the tensor that lies at a spot of a storage, of which all bytes are given."""
    first = flat.storage_offset() * flat.element_size() // spot.dtype.itemsize
    empty: Any = torch.empty(0, dtype=spot.dtype, device=flat.device)
    made: torch.Tensor = empty.set_(flat.untyped_storage(), first + spot.offset, spot.shape, spot.stride)
    return made


def _cut(number: int, source: torch.Tensor, most_bytes: int) -> Iterator[Block]:
    for start, shape in blocks(tuple(source.shape), source.element_size(), most_bytes):
        place = tuple(slice(first, first + length) for first, length in zip(start, shape, strict=True))
        yield Block(number, start, shape, lambda place=place: source[place])  # type: ignore[misc]


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
