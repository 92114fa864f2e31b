"""Files of shards by torch's own writer, with a digest of each made while its bytes pass."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter, _StorageInfo, _StoragePrefix
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult

from linnaeus.files import WriteBack, fsync_file
from linnaeus.pth._commit_file import FileSum
from linnaeus.pth._dcp_metadata import METADATA
from linnaeus.pth._shard_plan import BLOCK_BYTES, Block, Plan, Spot, value_bytes


class Kept(NamedTuple):
    """Where a box of entry `number` is kept, or the value of that number: JSON's own types only."""

    number: int
    offsets: list[int] | None
    shape: list[int]
    file: str
    offset: int
    length: int


class Writer:
    """Writes one rank's files into a directory, each of about the same size at most.

    Args:
        directory: Where to.
        plan: What there is.
        label: Whose files these are, by which they are called; begins with the rank.
        durable: They are to be on disk.
        most_bytes: How large a file may be.
    """

    def __init__(
        self, directory: Path, plan: Plan, label: str, *, durable: bool, most_bytes: int = BLOCK_BYTES
    ) -> None:
        self.sums: dict[str, FileSum] = {}
        self._plan, self._label, self._count, self._most_bytes = plan, label, 0, most_bytes
        self._directory, self._durable = directory, durable
        self._files = _SummedFiles(self.sums, durable=durable)
        # In the order that is asked for; and on disk only when all has been read, which others may wait for.
        self._writer = _Engine(directory, sync_files=False, per_thread_copy_ahead=0)
        self._writer.fs = self._files

    def write(self, blocks: Iterable[Block], *, with_values: bool = False) -> Iterator[Kept]:
        """Write blocks, and what is no tensor before them; tell where each is kept."""
        values = self._plan.values if with_values else {}
        order = {name: number for number, name in enumerate(values)}
        more = [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in values]
        for batch in chain(_batches(blocks, self._plan, self._most_bytes), [[]]):
            items = [_tensor_item(self._plan, block) for block in batch]
            found = {item.index: block for item, block in zip(items, batch, strict=True)}
            for result in self._write(more + items, _Planner(found, values)):
                block = found.get(result.index)
                if block is None:
                    yield _kept(order[result.index.fqn], None, [], result)
                else:
                    yield _kept(block.number, list(block.offsets), list(block.shape), result)
            more = []

    def settle(self) -> None:
        """Wait until all files are on disk."""
        for name in self.sums if self._durable else ():
            fsync_file(self._directory / name)

    def spot(self, number: int) -> Spot:
        """Return where a tensor that is written is."""
        return _of(self._plan, number)

    def _write(self, items: list[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        if not items:
            return []
        plan = SavePlan(items, storage_data=_StoragePrefix(f"__{self._label}_{self._count}_"))
        self._count += 1
        try:
            return self._writer.write_data(plan, planner).wait()
        except RuntimeError:
            if self._files.refusal is not None:  # torch's archiver makes an error of its own of the system's
                raise self._files.refusal from None
            raise

    def finish(self, kept: Iterable[Kept]) -> None:
        """Write the metadata of all that was kept by all ranks."""
        metadata, places = _metadata(self._plan, list(kept))
        results = [WriteResult(index, 0, info) for index, info in places.items()]
        self._writer.sync_files = self._durable
        self._writer.finish(metadata, [results])
        self.sums[METADATA] = self.sums.pop(f"{METADATA}.tmp")


def _kept(number: int, offsets: list[int] | None, shape: list[int], result: WriteResult) -> Kept:
    info = result.storage_data
    return Kept(number, offsets, shape, info.relative_path, info.offset, info.length)


def _batches(blocks: Iterable[Block], plan: Plan, most_bytes: int) -> Iterator[list[Block]]:
    """Yield what goes into one file each; what all ranks will read and what few will are not mixed."""
    batch: list[Block] = []
    room = most_bytes
    for block in blocks:
        size = block.num_elements * _of(plan, block.number).dtype.itemsize
        if batch and (size > room or block.is_split != batch[-1].is_split):
            yield batch
            batch, room = [], most_bytes
        batch.append(block)
        room -= size
    if batch:
        yield batch


def _of(plan: Plan, number: int) -> Spot:
    spot = plan.spots[number]
    assert spot is not None  # noqa: S101 - only what has bytes is written
    return spot


def _tensor_item(plan: Plan, block: Block) -> WriteItem:
    spot = _of(plan, block.number)
    chunk = ChunkStorageMetadata(torch.Size(block.offsets), torch.Size(block.shape))
    data = TensorWriteData(chunk, TensorProperties(spot.dtype), torch.Size(block.shape))
    return WriteItem(
        MetadataIndex(plan.names[block.number], chunk.offsets), WriteItemType.SHARD, tensor_data=data
    )


def _metadata(plan: Plan, kept: Sequence[Kept]) -> tuple[Metadata, dict[MetadataIndex, _StorageInfo]]:
    told: dict[str, Any] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    values = list(plan.values)
    parts: dict[int, list[Kept]] = {}
    for one in kept:
        if one.offsets is None:
            told[values[one.number]] = BytesStorageMetadata()
            places[MetadataIndex(values[one.number])] = _StorageInfo(one.file, one.offset, one.length)
        else:
            parts.setdefault(one.number, []).append(one)
    every = [(plan.names[number], number) for number in range(len(plan.spots))] + list(plan.aliases)
    for name, number in every:
        spot = plan.spots[number]
        if spot is None:
            continue
        mine = parts.get(number, [])
        chunks = [ChunkStorageMetadata(torch.Size(one.offsets or ()), torch.Size(one.shape)) for one in mine]
        told[name] = TensorStorageMetadata(TensorProperties(spot.dtype), torch.Size(spot.shape), chunks)
        for one in mine:
            places[MetadataIndex(name, one.offsets)] = _StorageInfo(one.file, one.offset, one.length)
    return Metadata(told, planner_data={name: plan.paths[name] for name in told}), places


class _Engine(FileSystemWriter):
    """Torch's writer, which tells nobody in which directory of this machine it wrote."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(save_id=self.save_id)


class _Planner(SavePlanner):
    """Gives torch's writer what it asks for; planning is done elsewhere."""

    def __init__(self, blocks: Mapping[MetadataIndex, Block], values: Mapping[str, Any]) -> None:
        self._blocks, self._values = blocks, values

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type is WriteItemType.BYTE_IO:
            return value_bytes(self._values[write_item.index.fqn])
        return self._blocks[write_item.index].source().detach().contiguous()

    def set_up_planner(self, *_: Any, **__: Any) -> None: ...

    def create_local_plan(self) -> SavePlan:
        return SavePlan([])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return all_plans, Metadata({})

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan


class _SummedFiles(FileSystem):
    """The files of this machine, each with a digest of what is written into it."""

    def __init__(self, sums: dict[str, FileSum], *, durable: bool) -> None:
        self._sums, self._durable = sums, durable
        self.refusal: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        if mode != "wb":
            raise ValueError(mode)
        with _Summed(io.FileIO(path, "xb"), durable=self._durable) as stream:
            try:
                yield stream
            finally:
                self.refusal = stream.refusal
        self._sums[Path(path).name] = FileSum(stream.size_bytes, stream.digest.hexdigest())


class _Summed(io.BufferedWriter):
    """A file that is written from its beginning to its end."""

    def __init__(self, raw: io.FileIO, *, durable: bool) -> None:
        super().__init__(raw, buffer_size=1 << 20)
        self._back = WriteBack(raw.fileno()) if durable else None
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            written = super().write(data)
        except OSError as error:
            self.refusal = error
            raise
        if self._back is not None:
            self._back.wrote(self.size_bytes, written)
        self.size_bytes += written
        return written
