"""A checkpoint's content with every tensor left in the file: structure and shapes now, bytes when asked for.

What weights are published under is a matter of structure, so it can be planned where they go, or refused,
before a byte of a tensor is read. Neither torch nor any code of the file is needed for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.pth._bounds import MAX_DEPTH
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._directory import Directory, Listed
from linnaeus.pth._document import Document, child_nodes
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import examine
from linnaeus.pth._examine_sharded import examine_sharded_there
from linnaeus.pth._glance import examine_there
from linnaeus.pth._globals import item_bytes
from linnaeus.pth._legacy import ReadAt
from linnaeus.pth._parted import PartedTensor
from linnaeus.pth._safetensors import INDEX, SAFETENSORS, joined_parts, read_index, start_of
from linnaeus.pth._sharded import Sharded, nested
from linnaeus.pth._stored import StoredFile, StoredTensor
from linnaeus.pth._stubs import TensorStub

_PLAIN = ("float", "bfloat", "int", "uint", "bool")
_NATIVE = sys.byteorder.encode()

Locate = Callable[[str, str], Listed | None]
"""From a storage's key and a tensor's dtype to the record that its bytes can be read from, or None."""


def sketch(path: Path) -> Any:
    """Return what a file holds, with `StoredTensor`s for tensors.

    Args:
        path: A checkpoint of any kind, or the index of several safetensors files that lie beside it.

    Returns:
        Dicts and lists; what is neither, nor a tensor, nor a plain value, is left out or None.

    Raises:
        CheckpointInvalidError: It is no checkpoint, damaged, or unsafe.
    """
    if path.is_dir():
        found = examine(path)
        found.require_safe()
        return sketch_examined(found, None)
    file = StoredFile(path)
    with collection_paused():
        found = examine(path, briefly=True)
        found.require_safe()
        file.require_in_place()
        return sketch_examined(found, file)


def sketch_there(name: str, size_bytes: int, read_at: ReadAt) -> Any:
    """Return what a file holds of which only ranges can be had; its tensors can't be read.

    Args:
        name: What to call it.
        size_bytes: Of the whole file.
        read_at: Returns `length` bytes from `offset` on, for each (offset, length).

    Raises:
        CheckpointInvalidError: It is no checkpoint, visibly damaged, or unsafe.
    """
    found = examine_there(name, size_bytes, read_at)
    found.require_safe()
    return sketch_examined(found, None)


def sketch_sharded_there(name: str, data: bytes, sizes: Mapping[str, int]) -> Any:
    """Return what a directory of shards holds that is elsewhere; its tensors can't be read.

    Args:
        name: What to call it.
        data: The bytes of its commit file.
        sizes: Of all files that are there, by name.

    Raises:
        CheckpointInvalidError: The commit file is damaged, or tells of other files than are there.
    """
    return sketch_examined(examine_sharded_there(name, data, sizes), None)


def sketch_examined(found: Examination, file: StoredFile | None) -> Any:
    """Return the sketch of a file that was examined and found safe.

    Args:
        found: What it is.
        file: The file, open; None where its tensors can't be read.
    """
    if found.sharded is not None:
        return _of_sharded(found.sharded)
    if found.kind == INDEX:
        return _of_index(found.path)
    if found.kind == SAFETENSORS:
        return {t.name: StoredTensor(file, t.dtype, t.shape, t.stride, start_of(t)) for t in found.tensors}
    if found.directory is None and found.document is not None:
        return _OfDocument(file, found.document).node(found.document.tree)
    return _OfOutline(file, _record_places(found.directory)).node(found.tree)


def _of_index(path: Path) -> dict[str, Any]:
    places = read_index(path)
    parts = {name: sketch(path.with_name(name)) for name in dict.fromkeys(places.values())}
    return joined_parts(path, places, parts)


def _record_places(directory: Directory | None) -> Locate:
    foreign = directory and "byteorder" in directory.records and directory.read("byteorder") != _NATIVE
    if directory is None or foreign:
        return lambda key, dtype: None
    return lambda key, dtype: directory.records.get(f"data/{key}") if dtype.startswith(_PLAIN) else None


# Classes, not functions within functions: one that calls itself would keep the file open until a collection.
@dataclass(frozen=True, slots=True)
class _OfOutline:
    """From what a pickle describes to a sketch."""

    file: StoredFile | None
    place: Locate

    def node(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, TensorStub):
            return self._stored(value)
        if depth > MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return {key: self.node(item, depth + 1) for key, item in dict.items(value)}
        if isinstance(value, (list, tuple)):
            return [self.node(item, depth + 1) for item in value]
        return value if isinstance(value, (str, int, float, bool)) else None

    def _stored(self, stub: TensorStub) -> StoredTensor:
        record = None if stub.storage is None else self.place(stub.storage.key, stub.dtype)
        start = None if record is None else stub.offset * item_bytes(stub.dtype)
        return StoredTensor(self.file, stub.dtype, stub.shape, stub.stride, start, record)


@dataclass(frozen=True, slots=True)
class _OfDocument:
    """From a file's own description to a sketch."""

    file: StoredFile | None
    document: Document

    def node(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping) and "$tensor" in value:
            return self._stored(value["$tensor"])
        if depth > MAX_DEPTH:
            return None
        inside = child_nodes(value)
        if len(inside) == 1 and inside[0][0] is None:  # the same thing in another form
            return self.node(inside[0][1], depth + 1)
        if isinstance(value, list):
            return [self.node(item, depth + 1) for item in value]
        if isinstance(value, Mapping):
            return {key: self.node(item, depth + 1) for key, item in inside if key is not None}
        return value

    def _stored(self, number: int) -> StoredTensor:
        key, dtype, shape, stride, offset, *marks = self.document.tensors[number]
        start = None
        native = self.document.written.get("byteorder") == sys.byteorder
        if native and key is not None and dtype.startswith(_PLAIN) and not {"conj", "neg"} & {*marks}:
            start = self.document.storages[key][0] + offset * item_bytes(dtype)
        return StoredTensor(self.file, dtype, tuple(shape), tuple(stride), start)


@dataclass(frozen=True, slots=True)
class _OfShards(_OfDocument):
    """From the description of a directory of shards to a sketch."""

    names: Sequence[str]
    sharded: Sharded

    def _stored(self, number: int) -> PartedTensor:
        return self.sharded.parted(self.names[number])


def _of_sharded(sharded: Sharded) -> Any:
    if sharded.commit is None:
        return nested(sharded, {name: sharded.parted(name) for name in sharded.index.tensors})
    commit = sharded.commit
    return _OfShards(None, commit.document, commit.names, sharded).node(commit.document.tree)
