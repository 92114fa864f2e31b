"""What `torch.distributed.checkpoint` keeps in its files: one small `torch.save` archive after another.

Each is read by its place alone, by the same means as a checkpoint of its own, so nothing in it is executed.
"""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._checksums import crc32s
from linnaeus.pth._dcp_metadata import Entry, Part, Place
from linnaeus.pth._directory import BAD_ZIP, PICKLE_RECORD, prefix_of
from linnaeus.pth._globals import item_bytes, unsafe
from linnaeus.pth._memory import memory_of
from linnaeus.pth._outline import BAD_PICKLE, Outline, extent_bytes, outline_of
from linnaeus.pth._ranges import Ranges
from linnaeus.pth._stored import StoredTensor
from linnaeus.pth._stubs import TensorStub

if TYPE_CHECKING:
    import torch

_LOCAL = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True, eq=False)
class PlacedTensor(StoredTensor):
    """A tensor at a known place of a file that is opened for each reading: there may be thousands of files.

    Attributes:
        path: The file.
    """

    path: Path = field(kw_only=True)

    @property
    def is_readable(self) -> bool:
        """Whether it can be read from where it stands."""
        return True

    def _read_into(self, target: torch.Tensor) -> None:
        num_bytes, start = self.num_bytes, self.start or 0
        first = target.storage_offset() * target.element_size()
        memory = memory_of(target.untyped_storage())[first : first + num_bytes]
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                while memory:
                    count = os.preadv(descriptor, [memory], start)
                    if not count:
                        raise CorruptCheckpointError(
                            path=str(self.path), problem="the file became shorter while it was read"
                        )
                    memory, start = memory[count:], start + count
            finally:
                os.close(descriptor)
        except OSError as error:
            raise not_readable(self.path, error) from error


@dataclass(frozen=True, slots=True)
class Item:
    """One archive inside a file: what it describes, and where its records are, with their CRC-32s."""

    outline: Outline
    records: dict[str, tuple[int, int, int]]


def read_item(directory: Path, place: Place) -> Item:
    """Read what an archive describes; torch is not needed.

    Raises:
        CorruptCheckpointError: It is cut short or damaged.
        UnsafeCheckpointError: It asks for more than data.
        CheckpointInvalidError: It can't be read.
    """
    path = directory / place.file
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _item(path, descriptor, place)
        finally:
            os.close(descriptor)
    except CheckpointInvalidError:
        raise
    except OSError as error:
        raise not_readable(path, error) from error
    except (*BAD_ZIP, *BAD_PICKLE) as error:
        raise CorruptCheckpointError(
            path=str(directory),
            problem=f"what lies at byte {place.offset} is damaged ({error})",
            record=place.file,
        ) from error


def _item(path: Path, descriptor: int, place: Place) -> Item:
    def read_at(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, place.offset + offset)

    with zipfile.ZipFile(Ranges(place.length, read_at)) as archive:
        prefix = prefix_of(path, archive.namelist())
        outline = outline_of(archive.read(prefix + PICKLE_RECORD))
        records = {
            entry.filename.removeprefix(prefix): _record(entry, place, read_at)
            for entry in archive.infolist()
        }
        if prefix + "byteorder" in archive.NameToInfo and archive.read(prefix + "byteorder") != b"little":
            raise UnsupportedFormatError(
                path=str(path),
                problem="its numbers are in another byte order",
                found="big",
                supported="little",
            )
    if outline.refused:
        raise unsafe(path, outline.refused)
    return Item(outline, records)


def _record(entry: zipfile.ZipInfo, place: Place, read_at: object) -> tuple[int, int, int]:
    header = read_at(entry.header_offset, _LOCAL.size)  # type: ignore[operator]
    magic, name_bytes, extra_bytes = _LOCAL.unpack(header)
    start = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes
    if magic != b"PK\x03\x04" or entry.compress_type or start + entry.file_size > place.length:
        raise ValueError("a record lies outside its archive")
    return place.offset + start, entry.file_size, entry.CRC


def stored_part(directory: Path, entry: Entry, part: Part) -> PlacedTensor:
    """Return one part of a tensor.

    Raises:
        CorruptCheckpointError: It is damaged, or not what the metadata says.
    """
    item = read_item(directory, part.place)
    stub = item.outline.tree
    if (
        not isinstance(stub, TensorStub)
        or stub.storage is None
        or (stub.dtype, stub.shape) != (entry.dtype, part.shape)
    ):
        raise _other(directory, entry, part, "it is not the tensor that the metadata tells of")
    offset, size_bytes, _ = item.records.get(f"data/{stub.storage.key}", (0, -1, 0))
    if size_bytes < extent_bytes(stub):
        raise _other(directory, entry, part, "it reaches outside its bytes")
    start = offset + stub.offset * item_bytes(stub.dtype)
    path = directory / part.place.file
    return PlacedTensor(None, stub.dtype, stub.shape, stub.stride, start, path=path)


def has_sums(directory: Path, part: Part) -> bool:
    """Tell whether torch recorded checksums of a part (`torch.serialization.set_crc32_options`)."""
    return any(crc32 for _, _, crc32 in read_item(directory, part.place).records.values())


def check_part(directory: Path, entry: Entry, part: Part) -> None:
    """Compare one part's records with their CRC-32s, where there are such.

    Raises:
        CorruptCheckpointError: One is damaged.
    """
    records = list(read_item(directory, part.place).records.values())
    if not any(crc32 for _, _, crc32 in records):
        return
    found = crc32s(directory / part.place.file, [(start, size) for start, size, _ in records])
    for (_, _, recorded), crc32 in zip(records, found, strict=True):
        if crc32 != recorded:
            raise _other(
                directory, entry, part, f"CRC-32 {recorded:08x} was recorded, {crc32 or 0:08x} found"
            )


def _other(directory: Path, entry: Entry, part: Part, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        path=str(directory), problem=problem, record=part.place.file, tensor=entry.name
    )
