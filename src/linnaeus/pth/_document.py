"""The `linnaeus.json` record: what a checkpoint says about itself; it is listed and loaded from that.

It holds the whole structure of the object and the place of every tensor, so nothing has to be unpickled.
Stock readers ignore it. `docs/format.md` documents it. Whoever reads it checks every number first: the file
may come from anybody.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._globals import is_dtype, item_bytes

FORMAT = 1
# Names are made by joining keys; without a limit a small file could ask for more memory than there is.
MAX_NAME = 4096
RECORD = "linnaeus.json"
_HEAD_ENDS = b',"storages":['


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor stands in the file; stride and offset count elements, `record` is its storage."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    record: str | None

    @property
    def num_elements(self) -> int:
        """The product of the shape."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that the elements take, views counted as if copied."""
        return self.num_elements * item_bytes(self.dtype)

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "stride": list(self.stride),
            "offset": self.offset,
            "record": self.record,
        }


@dataclass(frozen=True, slots=True)
class Document:
    """The record, read and checked.

    Attributes:
        written: Format, versions, time and byte order of writing.
        about: What the writer says of the run.
        storages: For each key the (offset, size) of its bytes in the file.
        tensors: For each tensor [key or None, dtype, shape, stride, offset, marks…]; marks are
            "requires_grad", "conj" and "neg".
        tree: The object's structure and plain values; `docs/format.md` shows how they are spelled.
    """

    written: Mapping[str, Any]
    about: Mapping[str, Any]
    storages: Sequence[tuple[int, int]]
    tensors: Sequence[Any]
    tree: Any

    def infos(self) -> tuple[TensorInfo, ...]:
        """Return every tensor with its dotted name, in the order of the object."""
        return tuple(self._info(name, self.tensors[number]) for name, number in numbered(self.tree))

    def _info(self, name: str, entry: Any) -> TensorInfo:
        key, dtype, shape, stride, offset, *_ = entry
        record = None if key is None else f"data/{key}"
        return TensorInfo(name, dtype, tuple(shape), tuple(stride), offset, record)

    def keys(self) -> tuple[str, ...]:
        """Return the keys at the top of the object, when it is a dict."""
        kind = next(iter(self.tree), "") if isinstance(self.tree, dict) else "$none"
        if kind in _PAIRS:
            return tuple(str(_key(key)) for key, _ in self.tree[kind])
        return () if kind.startswith("$") else tuple(self.tree)


def numbered(root: Any) -> Iterator[tuple[str, int]]:
    """Yield the dotted path and the number of every tensor, each shared container once."""
    stack = [("", root)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if len(path) > MAX_NAME:
            raise ValueError(f"a name is longer than {MAX_NAME} characters: {path[:40]}…")
        if isinstance(node, dict) and "$tensor" in node:
            yield path, node["$tensor"]
            continue
        if isinstance(node, dict) and "$sparse" in node:  # spelled anew wherever it stands
            first = node["parts"][0]["$tensor"]
            if first in seen:
                continue
            seen.add(first)
        inside = [
            (path if key is None else f"{path}.{key}" if path else key, item)
            for key, item in child_nodes(node)
        ]
        stack.extend(reversed(inside))


_PAIRS = ("$dict", "$ordered", "$counter")
_SEQUENCES = ("$tuple", "$set")


def child_nodes(node: Any) -> list[tuple[str | None, Any]]:
    """Return the values inside a node with their keys; None for what is the same thing in another form."""
    if isinstance(node, list):
        return [(str(number), item) for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return []
    kind = next(iter(node), "")
    if not kind.startswith("$"):
        return list(node.items())
    if kind in _PAIRS:
        return [(str(_key(key)), item) for key, item in node[kind]] + child_nodes(node.get("attributes"))
    if kind in _SEQUENCES:
        return [(str(number), item) for number, item in enumerate(node[kind])]
    if kind == "$parameter":
        return [(None, node["data"])]
    if kind == "$quantized":
        return [(None, node[kind])]
    if kind == "$sparse":
        return [(f"sparse.{number}", part) for number, part in enumerate(node["parts"])]
    return []


def _key(node: Any) -> Any:
    """Return the value of a key that is spelled as a node."""
    if not isinstance(node, dict):
        return node
    nothing: tuple[str, Any] = ("", None)
    kind, spelled = next(iter(node.items()), nothing)
    if kind == "$tuple":
        return tuple(_key(item) for item in spelled)
    if kind == "$bytes":
        return base64.b64decode(spelled)
    return {"$int": lambda text: int(text, 16), "$float": float_of_bits}.get(kind, str)(spelled)


def bits_of(value: float) -> str:
    """Return a float's 64 bits as hex digits, since JSON has no infinities and NaNs.

    And those have bits too.
    """
    return struct.pack(">d", value).hex()


def float_of_bits(digits: str) -> float:
    """Return the float that `bits_of` spelled.

    Raises:
        ValueError: It spelled no such text.
    """
    data = bytes.fromhex(digits)
    if len(data) != 8:
        raise ValueError(f"{digits[:40]!r} spells no float")
    value: float = struct.unpack(">d", data)[0]
    return value


@cache
def _version(name: str) -> str:
    return version(name)  # reads and parses a file, which would cost more than most saves


def compose(
    tensors: Sequence[str], tree: str, places: Sequence[tuple[int, int]], about: Mapping[str, Any]
) -> bytes:
    """Return the record's bytes.

    Args:
        tensors: The JSON text of each tensor.
        tree: The JSON text of the object's structure and plain values.
        places: For each storage the (offset, size) of its bytes in the file.
        about: What the writer says of the run, JSON values.
    """
    head = {
        "format": FORMAT,
        "linnaeus": _version("linnaeus"),
        "torch": _version("torch"),
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "byteorder": sys.byteorder,
        "about": _strict(about),
    }
    opened = json.dumps(head, allow_nan=False, separators=(",", ":"))[:-1]
    storages = ",".join([f"[{offset},{size}]" for offset, size in places])
    listed = ",".join(tensors)
    return f'{opened},"storages":[{storages}],"tensors":[{listed}],"tree":{tree}}}'.encode()


def _strict(node: Any) -> Any:
    """Return JSON values in which NaN and infinities, which JSON has not, are spelled as texts."""
    if isinstance(node, Mapping):
        return {str(key): _strict(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_strict(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return "NaN" if math.isnan(node) else f"{'-' if node < 0 else ''}Infinity"
    return node


def parse(path: Path, data: bytes, end: int) -> Document:
    """Return the record, checked.

    Args:
        path: The file, for messages.
        data: The record's bytes.
        end: Where the storages must have ended.

    Raises:
        CorruptCheckpointError: It can't be true.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    try:
        document = json.loads(data)
        found = document.get("format")
        if type(found) is not int or found > FORMAT:
            raise _newer(path, found)
        storages = _checked_storages(document.pop("storages"), end)
        tensors, tree, about = document.pop("tensors"), document.pop("tree"), document.pop("about")
        _check_tensors(tensors, storages)
        if not isinstance(about, dict):
            raise ValueError("about is no mapping")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UnsupportedFormatError):
            raise
        raise CorruptCheckpointError(
            path=str(path), problem=f"its description can't be true ({error})", record=RECORD
        ) from error
    return Document(document, about, storages, tensors, tree)


def parse_head(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what stands before the storages and tensors: who wrote the file, and what it says of its run.

    Args:
        path: The file, for messages.
        data: The record's bytes.

    Raises:
        CorruptCheckpointError: It can't be true.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    end = -1
    while (end := data.find(_HEAD_ENDS, end + 1)) >= 0:
        try:
            head = json.loads(data[:end] + b"}")
        except (ValueError, RecursionError):  # the same words inside what it says of its run
            continue
        about = head.pop("about", None)
        found = head.get("format")
        if type(found) is not int or found > FORMAT:
            raise _newer(path, found)
        if isinstance(about, dict):
            return head, about
    raise CorruptCheckpointError(
        path=str(path), problem="its description can't be true (it has no beginning)", record=RECORD
    )


def _newer(path: Path, found: object) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        path=str(path),
        problem="its linnaeus.json is of a newer version",
        found=f"format {str(found)[:20]}",
        supported=f"up to format {FORMAT}",
        advice="Update it: pip install --upgrade linnaeus. torch.load reads the file all the same.",
    )


def _checked_storages(entries: Any, end: int) -> list[tuple[int, int]]:
    position = 0
    places = []
    for offset, size in entries:
        if type(offset) is not int or type(size) is not int or offset < position or size < 0:
            raise ValueError("storages overlap or have no sizes")
        position = offset + size
        places.append((offset, size))
    if position > end:
        raise ValueError("a storage lies outside the file")
    return places


def _check_tensors(entries: Sequence[Any], storages: Sequence[tuple[int, int]]) -> None:
    # Most tensors of a model have one of few shapes.
    reaches: dict[Any, tuple[int, int]] = {}
    for key, dtype, shape, stride, offset, *_ in entries:
        if {*map(type, shape), *map(type, stride), type(offset)} != _INTEGERS or offset < 0:
            raise ValueError("a tensor's shape, stride or offset is none")
        form = dtype, *shape, None, *stride
        known = reaches.get(form)
        if known is None:
            known = reaches[form] = _reach(dtype, shape, stride)
        width, reach = known
        if key is None:
            continue
        if type(key) is not int or not 0 <= key < len(storages):
            raise ValueError(f"a tensor lies in storage {str(key)[:20]}, which is not there")
        if reach and (reach + offset) * width > storages[key][1]:
            raise ValueError(f"a tensor reaches outside storage {key}")


_INTEGERS = {int}


def _reach(dtype: Any, shape: Sequence[int], stride: Sequence[int]) -> tuple[int, int]:
    """Return the bytes of an element, and how many elements a tensor reaches from its first."""
    if len(shape) != len(stride) or min((*shape, *stride, 0)) < 0:
        raise ValueError("a tensor's shape, stride or offset is none")
    if not is_dtype(dtype):
        raise ValueError(f"a tensor is of the unknown type {str(dtype)[:40]!r}")
    if 0 in shape:
        return item_bytes(dtype), 0
    return item_bytes(dtype), 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
