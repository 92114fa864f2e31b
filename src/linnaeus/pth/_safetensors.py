"""The safetensors format, read without the package of that name: a JSON header, then the bytes.

Source of the format: https://github.com/huggingface/safetensors, "Format": eight bytes with the header's
length, the header, then the tensors without gaps. An index names the files that a large model is spread over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._globals import item_bytes

INDEX_SUFFIX = ".index.json"
SAFETENSORS = "safetensors"
INDEX = "safetensors index"

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_INDEX_BYTES = 100_000_000
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def is_safetensors(path: Path, head: bytes) -> bool:
    """Tell whether a file is meant to be of this format: by its name and its first bytes."""
    return path.suffix == ".safetensors" and head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def is_index(path: Path, head: bytes) -> bool:
    """Tell whether a file is meant to be the index of a model in several files."""
    return path.name.endswith(f".safetensors{INDEX_SUFFIX}") and head.lstrip()[:1] == b"{"


def header_bytes(head: bytes) -> int:
    """Return how many bytes at a file's beginning are not yet tensors."""
    return _LENGTH_BYTES + int.from_bytes(head[:_LENGTH_BYTES], "little")


def read_header(
    path: Path, descriptor: int, size_bytes: int
) -> tuple[tuple[TensorInfo, ...], dict[str, Any]]:
    """Return a file's tensors, offsets in elements from its beginning not being known, and its texts.

    Raises:
        CorruptCheckpointError: The file is cut short, or its header contradicts it.
        OSError: It can't be read.
    """
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    if length > min(_MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
        raise _corrupt(path, "its header ends outside the file")
    return parse_header(path, os.pread(descriptor, length, _LENGTH_BYTES), size_bytes)


def parse_header(path: Path, data: bytes, size_bytes: int) -> tuple[tuple[TensorInfo, ...], dict[str, Any]]:
    """Return what a header says, checked against the size of the file.

    Each tensor's `record` is "bytes/START", its place in the file.

    Raises:
        CorruptCheckpointError: It can't be true.
    """
    start = _LENGTH_BYTES + len(data)
    try:
        header = json.loads(data)
        texts = header.pop("__metadata__", None) or {}
        found = {name: _checked(entry) for name, entry in header.items()}
        position = 0
        for first, end, _, _ in sorted(found.values()):
            if first != position:
                raise ValueError("tensors overlap or leave gaps")
            position = end
        if start + position != size_bytes:
            raise ValueError(f"its tensors end at byte {start + position}, the file at {size_bytes}")
        about = {str(key): str(value) for key, value in texts.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"its header can't be true ({error})") from error
    return tuple(_info(name, start, *entry) for name, entry in found.items()), about


def _checked(entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    first, end = entry["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (first, end, *shape)):
        raise ValueError("a shape or an offset is none")
    count = 1
    for size in shape:
        count *= size
    if end - first != count * item_bytes(dtype):
        raise ValueError("a tensor's bytes are not as many as its shape says")
    return first, end, dtype, shape


def _info(name: str, start: int, first: int, _: int, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(name, dtype, shape, _stride(shape), 0, f"bytes/{start + first}")


def _stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def start_of(info: TensorInfo) -> int:
    """Return the byte of the file at which a tensor begins."""
    return int((info.record or "bytes/0").removeprefix("bytes/"))


def read_index(path: Path) -> Mapping[str, str]:
    """Return the file that each tensor of a model lies in.

    Raises:
        CorruptCheckpointError: The index is damaged, or names something else than files beside it.
        OSError: It can't be read.
    """
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise _corrupt(path, "it is too large for an index")
    return parse_index(path, path.read_bytes())


def parse_index(path: Path, data: bytes) -> Mapping[str, str]:
    """Return what the bytes of an index say, as `read_index` does."""
    try:
        places = json.loads(data)["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError("weight_map is no mapping")
        for place in places.values():
            if not isinstance(place, str) or place != Path(place).name or not place.endswith(".safetensors"):
                raise ValueError(f"{str(place)[:80]!r} is no file beside it")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _corrupt(path, f"it is no index of safetensors files ({error})") from error
    return places


def joined_parts(
    path: Path, places: Mapping[str, str], parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the tensors of a model in several files, each from the file that the index names for it.

    Args:
        path: The index.
        places: The file of each tensor, as the index says.
        parts: The tensors of each file; those that the index forgets are taken too.

    Raises:
        CorruptCheckpointError: A file lacks what it should have, or two have what the index does not name.
    """
    found: dict[str, Any] = {}
    for name, place in places.items():
        if name not in parts[place]:
            raise _corrupt(path, f"{place} should have {name} and has not")
        found[name] = parts[place][name]
    for place, part in parts.items():
        for name in part.keys() - places.keys():
            if name in found:
                raise _corrupt(path, f"{place} and another file have {name}, and it names neither")
            found[name] = part[name]
    return found


def _corrupt(path: Path, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), problem=problem)
