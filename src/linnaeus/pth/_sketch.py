"""A checkpoint's content with every tensor left in the file: structure and shapes now, bytes when asked for.

What weights are published under is a matter of structure, so it can be planned where they go, or refused,
before a byte of a tensor is read. Neither torch nor any code of the file is needed for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from linnaeus.pth._bounds import MAX_DEPTH
from linnaeus.pth._document import Document, child_nodes
from linnaeus.pth._examine import Examination, examine
from linnaeus.pth._glance import ReadAt, examine_there
from linnaeus.pth._globals import item_bytes
from linnaeus.pth._safetensors import INDEX, SAFETENSORS, read_index, start_of
from linnaeus.pth._sharded import sketch_directory
from linnaeus.pth._stored import StoredTensor
from linnaeus.pth._stubs import TensorStub

_PLAIN = ("float", "bfloat", "int", "uint", "bool")
_NATIVE = sys.byteorder.encode()

Locate = Callable[[str, str], int | None]
"""From a storage's key and a tensor's dtype to the storage's first byte in the file, or None."""


def sketch(path: Path) -> Any:
    """Return what a file holds, with `StoredTensor`s for tensors.

    Args:
        path: A checkpoint of any kind, or the index of several safetensors files that lie beside it.

    Returns:
        Dicts and lists; what is neither, nor a tensor, nor a plain value, is left out or None.

    Raises:
        CheckpointInvalidError: It is no checkpoint, damaged, or unsafe.
    """
    found = examine(path)
    found.require_safe()
    return sketch_examined(found)


def sketch_there(name: str, size_bytes: int, read_at: ReadAt) -> Any:
    """Return what a file holds of which only ranges can be had; its tensors can't be read.

    Args:
        name: What to call it.
        size_bytes: Of the whole file.
        read_at: Returns `length` bytes from `offset` on, for each (offset, length).

    Raises:
        CheckpointInvalidError: It is no checkpoint in the format since torch 1.6, or unsafe.
    """
    found = examine_there(name, size_bytes, read_at)
    found.require_safe()
    return _unreadable(sketch_examined(found))


def _unreadable(node: Any) -> Any:
    if isinstance(node, StoredTensor):
        return replace(node, start=None)
    if isinstance(node, dict):
        return {key: _unreadable(item) for key, item in node.items()}
    return [_unreadable(item) for item in node] if isinstance(node, list) else node


def sketch_examined(found: Examination) -> Any:
    """Return the sketch of a file that was examined and found safe."""
    if found.sharded is not None:
        return sketch_directory(found.sharded)
    if found.kind == INDEX:
        return _of_index(found.path)
    if found.kind == SAFETENSORS:
        return {
            t.name: StoredTensor(found.path, t.dtype, t.shape, t.stride, start_of(t)) for t in found.tensors
        }
    if found.archive is None and found.document is not None:
        return _of_document(found.path, found.document)
    return _of_outline(found.path, found.tree, _record_places(found))


def _of_index(path: Path) -> Any:
    content: dict[str, Any] = {}
    places = read_index(path)
    for name in dict.fromkeys(places.values()):
        content |= sketch(path.with_name(name))
    return content


def _record_places(found: Examination) -> Locate:
    archive = found.archive
    if archive is None or ("byteorder" in archive.records and archive.read("byteorder") != _NATIVE):
        return lambda key, dtype: None

    def place(key: str, dtype: str) -> int | None:
        record = archive.records.get(f"data/{key}")
        return record.offset if record and dtype.startswith(_PLAIN) else None

    return place


def _of_outline(path: Path, tree: Any, place: Locate) -> Any:
    def node(value: Any, depth: int) -> Any:
        if isinstance(value, TensorStub):
            return stored(value)
        if depth > MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return {key: node(item, depth + 1) for key, item in dict.items(value)}
        if isinstance(value, (list, tuple)):
            return [node(item, depth + 1) for item in value]
        return value if isinstance(value, (str, int, float, bool)) else None

    def stored(stub: TensorStub) -> StoredTensor:
        first = None if stub.storage is None else place(stub.storage.key, stub.dtype)
        start = None if first is None else first + stub.offset * item_bytes(stub.dtype)
        return StoredTensor(path, stub.dtype, stub.shape, stub.stride, start)

    return node(tree, 0)


def _of_document(path: Path, document: Document) -> Any:
    native = document.written.get("byteorder") == sys.byteorder

    def stored(number: int) -> StoredTensor:
        key, dtype, shape, stride, offset, *marks = document.tensors[number]
        readable = native and key is not None and dtype.startswith(_PLAIN) and not {"conj", "neg"} & {*marks}
        start = document.storages[key][0] + offset * item_bytes(dtype) if readable else None
        return StoredTensor(path, dtype, tuple(shape), tuple(stride), start)

    return sketch_document(document, stored)


def sketch_document(document: Document, stored: Callable[[int], StoredTensor]) -> Any:
    """Return what a description tells of, with what is `stored` for each tensor, by its number."""

    def node(value: Any, depth: int) -> Any:
        if isinstance(value, Mapping) and "$tensor" in value:
            return stored(value["$tensor"])
        if depth > MAX_DEPTH:
            return None
        inside = child_nodes(value)
        if len(inside) == 1 and inside[0][0] is None:  # the same thing in another form
            return node(inside[0][1], depth + 1)
        if isinstance(value, list):
            return [node(item, depth + 1) for item in value]
        if isinstance(value, Mapping):
            return {key: node(item, depth + 1) for key, item in inside if key is not None}
        return value

    return node(document.tree, 0)
