"""From a directory of shards to an object: read as a whole, or only what somebody needs of it.

Tensors are made with addresses and no memory behind them; memory comes with the bytes that are read into it.
So a rank that wants its part of a state reads and holds no more than that part.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from linnaeus.pth._archive import not_readable
from linnaeus.pth._dcp_items import read_item
from linnaeus.pth._dcp_metadata import Place
from linnaeus.pth._document import Document
from linnaeus.pth._globals import item_bytes
from linnaeus.pth._memory import memory_of
from linnaeus.pth._parted import PartedTensor, blocks
from linnaeus.pth._rebuild import load_described, load_stream
from linnaeus.pth._sharded import Sharded, nested
from linnaeus.pth._shares import stand_in

if TYPE_CHECKING:
    import torch

_PIECE_BYTES = 8 << 20


class Lazy:
    """The object that a directory holds, whose tensors have their bytes when somebody has asked for them.

    Attributes:
        content: The object.
        path: The directory.
    """

    def __init__(self, directory: Sharded) -> None:
        self.path = directory.path
        self._directory = directory
        self._storages: dict[int, _Kept] = {}
        self.content: Any = self._described() if directory.commit else self._plain()

    def _described(self) -> Any:
        assert self._directory.commit is not None  # noqa: S101 - the caller has checked
        document = self._directory.commit.document
        inside = _by_storage(document, self._directory.commit.names)
        made: dict[int, torch.UntypedStorage] = {}

        def storage(key: int) -> torch.UntypedStorage:
            if key not in made:
                made[key] = self._keep(document.storages[key][1], inside.get(key, [])).storage
            return made[key]

        return load_described(self.path, document, storage)

    def _plain(self) -> Any:
        from linnaeus.pth._build import DTYPES

        leaves: dict[str, Any] = {}
        for name, entry in self._directory.index.tensors.items():
            dtype = DTYPES[entry.dtype]
            width = dtype.itemsize
            parted = self._directory.parted(name)
            place = entry.dtype, entry.shape, parted.stride, 0
            kept = self._keep(math.prod(entry.shape) * width, [(name, *place)])
            leaves[name] = kept.tensor(place)
        for name, value in self._directory.index.values.items():
            leaves[name] = self._value(value)
        return nested(self._directory, leaves)

    def _value(self, place: Place) -> Any:
        item = read_item(self.path, place)
        try:
            with (self.path / place.file).open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.length)
        except OSError as error:
            raise not_readable(self.path / place.file, error) from error
        return load_stream(io.BytesIO(data), self.path, item.outline.replaced)

    def _keep(self, size_bytes: int, inside: Iterable[_Inside]) -> _Kept:
        parted = [(self._directory.parted(name), place) for name, *place in inside]
        kept = _Kept(size_bytes, [(one, tuple(place)) for one, place in parted])  # type: ignore[misc]
        self._storages[kept.storage._cdata] = kept
        return kept

    def holds(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor is one of the content's, or a view of such."""
        import torch

        plain = tensor.layout is torch.strided and tensor.is_cpu
        return plain and tensor.untyped_storage()._cdata in self._storages

    def ready(self, tensors: Iterable[torch.Tensor]) -> None:
        """Read what tensors show: those of the content, and views of them; others are left alone.

        Raises:
            CheckpointInvalidError: A file is damaged, or can't be read.
        """
        for tensor in tensors:
            if self.holds(tensor):
                self._storages[tensor.untyped_storage()._cdata].read(tensor)

    def files_of(self, tensors: Iterable[torch.Tensor]) -> set[str]:
        """Return in which files tensors of the content, or views of them, are kept."""
        held = [tensor for tensor in tensors if self.holds(tensor)]
        kept = [(self._storages[tensor.untyped_storage()._cdata], tensor) for tensor in held]
        return {name for one, tensor in kept for name in one.files_of(tensor)}

    def all_ready(self) -> None:
        """Read everything; raises CheckpointInvalidError."""
        for kept in self._storages.values():
            kept.read_all()

    def fill(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Make the elements of tensors those of others, which are part of the content.

        What was not asked for before is read straight into the targets, on all cores, where they are plain
        and on the CPU.
        """
        import torch

        tasks: list[_Reading] = []
        for target, source in pairs:
            reading = self._reading(target, source)
            if reading is not None:
                tasks.append(reading)
                torch.autograd.graph.increment_version(target)  # as an assignment in place does
                continue
            self.ready([source])
            with torch.no_grad():
                target.copy_(source)
        with ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 1) or 1) as pool:
            for _ in pool.map(lambda one: one.parted.read_box(one.starts, one.target), tasks):
                pass

    def _reading(self, target: torch.Tensor, source: torch.Tensor) -> _Reading | None:
        """Return how to read into a target what another tensor shows, if that is one box not read yet."""
        if not (self.holds(source) and _takes_bytes(target, source)):
            return None
        found = self._storages[source.untyped_storage()._cdata].unread(source)
        return None if found is None else _Reading(*found, target.detach())

    def read_block(
        self,
        storage: torch.UntypedStorage,
        starts: Sequence[int],
        shape: Sequence[int],
        otherwise: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """Return a box of the tensor that a storage is, in memory of its own.

        Args:
            storage: One of the content's.
            starts: Where the box begins.
            shape: Its shape.
            otherwise: Gives the box out of the storage, where that is more than one tensor.
        """
        import torch

        from linnaeus.pth._build import DTYPES

        kept = self._storages[storage._cdata]
        parted = kept.only()
        if parted is None:
            kept.read_all()
            return otherwise()
        block = torch.empty(tuple(shape), dtype=DTYPES[parted.dtype])
        parted.read_box(starts, block)
        return block

    def pieces(self, storage: torch.UntypedStorage) -> Iterator[memoryview]:
        """Yield a storage's bytes in order; a piece stays as it is until the next one is asked for."""
        yield from self._storages[storage._cdata].pieces()


_Spot = tuple[str, tuple[int, ...], tuple[int, ...], int]
"""Dtype, shape, stride and offset of a tensor in its storage, counted in elements."""
_Inside = tuple[str, str, tuple[int, ...], tuple[int, ...], int]


def _by_storage(document: Document, names: Sequence[str]) -> dict[int, list[_Inside]]:
    found: dict[int, list[_Inside]] = {}
    for name, (key, dtype, shape, stride, offset, *_) in zip(names, document.tensors, strict=True):
        spot = name, dtype, tuple(shape), tuple(stride), offset
        if spot not in found.setdefault(key, []):  # tied weights are one tensor
            found[key].append(spot)
    return found


class _Reading(NamedTuple):
    """A box of a tensor, and where its bytes go."""

    parted: PartedTensor
    starts: list[int]
    target: torch.Tensor


def _takes_bytes(target: torch.Tensor, source: torch.Tensor) -> bool:
    """Tell whether a tensor can be given another's elements by writing bytes where its own are."""
    import torch

    plain = target.layout is torch.strided and target.device.type == "cpu"
    alike = plain and (target.dtype, target.shape) == (source.dtype, source.shape)
    return alike and not any(
        (target.is_quantized, *(one.is_conj() or one.is_neg() for one in (target, source)))
    )


def _spot_of(view: torch.Tensor) -> tuple[Any, ...]:
    return view.dtype, view.storage_offset(), tuple(view.shape), view.stride()


class _Kept:
    """One storage, and the tensors that its bytes are kept as."""

    def __init__(self, size_bytes: int, inside: list[tuple[PartedTensor, _Spot]]) -> None:
        import torch

        self.storage = stand_in((size_bytes,), torch.uint8).untyped_storage()
        self._inside = inside
        self._is_whole = False
        self._have: set[tuple[Any, ...]] = set()

    def tensor(self, spot: _Spot) -> torch.Tensor:
        """Return the tensor at a spot."""
        import torch

        from linnaeus.pth._build import DTYPES

        dtype, shape, stride, offset = spot
        empty: Any = torch.empty(0, dtype=DTYPES[dtype])
        made: torch.Tensor = empty.set_(self.storage, offset, shape, stride)
        return made

    def read(self, view: torch.Tensor) -> None:
        """Read what a view shows; where it is no box of the one tensor that is kept, everything."""
        if self._has(view) or not view.numel():
            return
        starts = self._box(view)
        if starts is None:
            self.read_all()
            return
        self._inside[0][0].read_box(starts, view.detach())
        self._have.add(_spot_of(view))

    def unread(self, view: torch.Tensor) -> tuple[PartedTensor, list[int]] | None:
        """Return the tensor that is kept, and where in it a view begins; None where that is in memory."""
        starts = None if self._has(view) else self._box(view)
        return None if starts is None else (self._inside[0][0], starts)

    def _has(self, view: torch.Tensor) -> bool:
        return self._is_whole or _spot_of(view) in self._have

    def files_of(self, view: torch.Tensor) -> set[str]:
        """Return in which files is kept what a view shows."""
        if not view.numel():
            return set()
        starts = self._box(view)
        if starts is None:
            return {name for one, _ in self._inside for name in one.files_of([0] * len(one.shape), one.shape)}
        return self._inside[0][0].files_of(starts, tuple(view.shape))

    def _box(self, view: torch.Tensor) -> list[int] | None:
        """Return where a view begins in the tensor that is kept here, if it is a box of it."""
        if len(self._inside) != 1:
            return None
        dtype, shape, stride, offset = self._inside[0][1]
        if str(view.dtype) != f"torch.{dtype}" or view.dim() != len(shape):
            return None
        rest, starts = int(view.storage_offset()) - offset, [0] * len(shape)
        for dim in sorted(range(len(shape)), key=lambda dim: -stride[dim]):
            if shape[dim] > 1:
                starts[dim], rest = divmod(rest, stride[dim])
        fits = all(
            start + length <= whole and (length == 1 or mine == step)
            for start, length, whole, mine, step in zip(
                starts, view.shape, shape, view.stride(), stride, strict=True
            )
        )
        return starts if fits and rest == 0 else None

    def only(self) -> PartedTensor | None:
        """Return the tensor that is all of the storage, if one is."""
        return None if self._order() is None else self._inside[0][0]

    def read_all(self) -> None:
        """Read everything."""
        if not self._is_whole:
            for parted, spot in self._inside:
                parted.read_box([0] * len(parted.shape), self.tensor(spot))
            self._is_whole = True

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in order, of which few are held at a time where one tensor fills the storage."""
        import torch

        from linnaeus.pth._build import DTYPES

        order = self._order()
        if order is None:
            self.read_all()
            yield memory_of(self.storage)
            return
        parted, (dtype, shape, _, _) = self._inside[0]
        width = DTYPES[dtype].itemsize
        turned = [shape[dim] for dim in order]
        back = sorted(range(len(order)), key=lambda place: order[place])
        # One for all pieces, since the allocator would keep some of what is freed.
        buffer = torch.empty(min(_PIECE_BYTES, self.storage.nbytes()), dtype=torch.uint8)
        for start, size in blocks(turned, width, _PIECE_BYTES):
            length = math.prod(size) * width
            block = buffer[:length].view(DTYPES[dtype]).view(size)
            parted.read_box([start[place] for place in back], block.permute(back))
            yield memory_of(buffer.untyped_storage())[:length]

    def _order(self) -> list[int] | None:
        """Return the dimensions from the slowest to the fastest, if one tensor is all of the storage."""
        if len(self._inside) != 1:
            return None
        _, (dtype, shape, stride, offset) = self._inside[0]
        order = sorted(range(len(shape)), key=lambda dim: (-stride[dim], dim))
        step = 1
        for dim in reversed(order):
            if shape[dim] != 1 and stride[dim] != step:
                return None
            step *= shape[dim]
        return order if offset == 0 and step * item_bytes(dtype) == self.storage.nbytes() else None


def load_directory(directory: Sharded) -> Any:
    """Return the object that a directory holds, read into memory.

    Raises:
        CheckpointInvalidError: A file is damaged, or can't be read.
    """
    lazy = Lazy(directory)
    lazy.all_ready()
    return lazy.content
