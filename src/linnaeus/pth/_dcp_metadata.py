"""The `.metadata` of a directory that `torch.distributed.checkpoint` wrote, read without obeying it.

It is a pickle, and torch unpickles it. This reader admits the few names that such a file consists of, gives
each a class of its own that does nothing, and refuses every other name; what comes out is checked, since a
directory may come from anybody.

Source of the names: `torch/distributed/checkpoint/metadata.py` and `filesystem.py`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._bounds import pickle_end
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._document import MAX_NAME
from linnaeus.pth._globals import is_dtype, unsafe
from linnaeus.pth._outline import BAD_PICKLE
from linnaeus.pth._stubs import Inert, stub_for

METADATA = ".metadata"

_MODULE = "torch.distributed.checkpoint."
_RECORDS = frozenset(
    _MODULE + name
    for name in (
        "metadata.BytesStorageMetadata",
        "metadata.ChunkStorageMetadata",
        "metadata.Metadata",
        "metadata.MetadataIndex",
        "metadata.StorageMeta",
        "metadata.TensorProperties",
        "metadata.TensorStorageMetadata",
        "filesystem._StorageInfo",
    )
)
# What tells nothing that is needed here.
_IGNORED = frozenset(
    {
        _MODULE + "metadata._MEM_FORMAT_ENCODING",
        "torch.serialization._get_layout",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "pathlib.WindowsPath",
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of one file of the directory."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Part:
    """A box of a tensor: where it begins, how large it is, and where it is kept, as a tensor of its own."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, kept in parts that together are all of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """What a directory holds.

    Attributes:
        tensors: By their dotted names.
        values: Where everything else is, by dotted name.
        paths: The keys that lead to each in the nested object, where they are told.
    """

    tensors: Mapping[str, Entry]
    values: Mapping[str, Place]
    paths: Mapping[str, tuple[str | int, ...]]


def read_index(directory: Path) -> Index:
    """Read what a directory holds; nothing of it is executed, and torch is not needed.

    Raises:
        UnsafeCheckpointError: Its metadata asks for something else.
        CorruptCheckpointError: Its metadata is damaged, or can't be true.
        UnsupportedFormatError: It is kept in a form that is not known here.
        CheckpointInvalidError: It can't be read.
    """
    path = directory / METADATA
    try:
        data = path.read_bytes()
    except OSError as error:
        raise not_readable(path, error) from error
    try:
        with collection_paused():
            return _index(path, _unpickled(path, data))
    except CheckpointInvalidError:
        raise
    except BAD_PICKLE as error:
        raise CorruptCheckpointError(
            path=str(directory), problem=f"its metadata can't be true ({error})", record=METADATA
        ) from error


class _MetadataUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        # Made anew for each file, as a pickle may set what it likes on a class that it is given.
        self._kinds = {name: type(name.rpartition(".")[2], (_Record,), {}) for name in _RECORDS}
        self.refused: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if dotted in self._kinds:
            return self._kinds[dotted]
        if dotted == "torch.Size" or (module == "torch" and is_dtype(name)):
            return stub_for(dotted)
        if dotted not in _IGNORED and dotted not in self.refused:
            self.refused.append(dotted)
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside")


class _Record:
    """Holds whatever state a pickle gives it."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state


def _unpickled(path: Path, data: bytes) -> Any:
    unpickler = _MetadataUnpickler(data[: pickle_end(data)])
    try:
        found = unpickler.load()
    except BAD_PICKLE:
        if not unpickler.refused:
            raise
    if unpickler.refused:
        raise unsafe(path, unpickler.refused)
    return found


def _fields(record: Any, kind: str) -> Mapping[str, Any]:
    state = vars(record).get("state", {}) if isinstance(record, _Record) else None
    if type(record).__name__ != kind or not isinstance(state, dict):
        raise ValueError(f"no {kind} where one should be")
    return state


def _index(path: Path, root: Any) -> Index:
    fields = _fields(root, "Metadata")
    # Parts are looked up by name and place; torch's own key is that, with a hint that need not be there.
    places: dict[tuple[str, tuple[int, ...] | None], Place] = {}
    for key, info in dict.items(fields["storage_data"] or {}):
        found = _fields(key, "MetadataIndex")
        offset = found.get("offset")
        places[_name(found["fqn"]), None if offset is None else _lengths(offset)] = _place(path, info)
    tensors: dict[str, Entry] = {}
    values: dict[str, Place] = {}
    for name, kept in dict.items(fields["state_dict_metadata"]):
        if type(kept).__name__ == "BytesStorageMetadata":
            values[_name(name)] = places[name, None]
        else:
            tensors[_name(name)] = _entry(name, _fields(kept, "TensorStorageMetadata"), places)
    return Index(tensors, values, _paths(fields.get("planner_data"), {*tensors, *values}))


def _name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise ValueError("a name is none")
    return name


def _lengths(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or any(type(value) is not int or value < 0 for value in values):
        raise ValueError("a shape or an offset is none")
    return values


def _place(path: Path, info: Any) -> Place:
    fields = _fields(info, "_StorageInfo")
    if fields.get("transform_descriptors"):
        raise UnsupportedFormatError(
            path=str(path.parent),
            problem="its files are transformed",
            found=str(fields["transform_descriptors"])[:80],
            supported="files as torch.distributed.checkpoint writes them without extensions",
        )
    file, offset, length = fields["relative_path"], fields["offset"], fields["length"]
    _lengths((offset, length))
    # Only beside the metadata: a name from a stranger must not lead to another file of this machine.
    if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\0" in file:
        raise ValueError(f"{str(file)[:80]!r} is no name of a file beside it")
    return Place(file, offset, length)


def _entry(name: str, fields: Mapping[str, Any], places: Mapping[Any, Place]) -> Entry:
    properties = vars(fields["properties"])["state"]
    dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
    if not is_dtype(dtype):
        raise ValueError(f"{name} is of no type")
    shape = _lengths(fields["size"])
    boxes = [_fields(chunk, "ChunkStorageMetadata") for chunk in fields["chunks"]]
    parts = [
        Part(_lengths(box["offsets"]), _lengths(box["sizes"]), places[name, box["offsets"]]) for box in boxes
    ]
    parts.sort(key=lambda part: part.offsets)
    _check_joined(name, shape, parts)
    return Entry(name, str(dtype), shape, tuple(parts))


def _check_joined(name: str, shape: tuple[int, ...], parts: list[Part]) -> None:
    """Check that the parts lie inside the tensor, apart from each other, and leave nothing out."""
    size = 0
    open_parts: list[Part] = []
    for part in parts:
        if not len(part.offsets) == len(part.shape) == len(shape):
            raise ValueError(f"a part of {name} has another number of dimensions")
        ends = [start + length for start, length in zip(part.offsets, part.shape, strict=True)]
        if any(end > whole for end, whole in zip(ends, shape, strict=True)):
            raise ValueError(f"a part of {name} lies outside it")
        # Parts are sorted by where they begin, so only those that reach this far can overlap.
        open_parts = [one for one in open_parts if not shape or _end(one) > part.offsets[0]]
        if any(_overlap(one, part) for one in open_parts):
            raise ValueError(f"parts of {name} overlap")
        open_parts.append(part)
        size += _volume(part.shape)
    if size != _volume(shape):
        raise ValueError(f"{name} is not there as a whole")


def _end(part: Part) -> int:
    return part.offsets[0] + part.shape[0]


def _volume(shape: tuple[int, ...]) -> int:
    volume = 1
    for length in shape:
        volume *= length
    return volume


def _overlap(a: Part, b: Part) -> bool:
    return all(
        max(a_start, b_start) < min(a_start + a_length, b_start + b_length)
        for a_start, a_length, b_start, b_length in zip(a.offsets, a.shape, b.offsets, b.shape, strict=True)
    )


def _paths(found: Any, names: set[str]) -> dict[str, tuple[str | int, ...]]:
    """Return the keys that lead to each name; names of whose keys nothing is told are keys themselves."""
    if not isinstance(found, dict):
        return {}
    paths = {}
    for name, path in dict.items(found):
        good = isinstance(path, tuple) and path and all(type(key) in (str, int) for key in path)
        if name in names:
            if not good or any(type(key) is int and not 0 <= key < len(names) for key in path):
                raise ValueError(f"{name} has no path")
            paths[name] = path
    return paths
