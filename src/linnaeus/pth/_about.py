"""The `linnaeus.json` record: what a checkpoint says about itself, readable without unpickling.

It lists every tensor with its place and carries what the writer wants known of the run. Stock readers
ignore it. `docs/format.md` documents it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._globals import item_bytes
from linnaeus.pth._outline import Outline

FORMAT = 1


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
        count = 1
        for length in self.shape:
            count *= length
        return count

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


def tensor_infos(outline: Outline) -> tuple[TensorInfo, ...]:
    """Return every tensor of an outline, in the order of the file."""
    return tuple(
        TensorInfo(
            name=name,
            dtype=stub.dtype,
            shape=stub.shape,
            stride=stub.stride,
            offset=stub.offset,
            record=None if stub.storage is None else f"data/{stub.storage.key}",
        )
        for name, stub in outline.tensors()
    )


def compose(tensors: tuple[TensorInfo, ...], about: Mapping[str, Any]) -> bytes:
    """Return the record's bytes for these tensors and what the writer says of the run."""
    document = {
        "format": FORMAT,
        "linnaeus": version("linnaeus"),
        "torch": version("torch"),
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "about": _strict(about),
        "tensors": [tensor.to_plain() for tensor in tensors],
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _strict(node: Any) -> Any:
    """Return JSON values in which NaN and infinities, which JSON has not, are spelled as texts."""
    if isinstance(node, Mapping):
        return {str(key): _strict(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_strict(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return "NaN" if math.isnan(node) else f"{'-' if node < 0 else ''}Infinity"
    return node


def parse(path: Path, data: bytes) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Return the document without its tensors, and the tensors.

    Raises:
        CorruptCheckpointError: The record is no such document.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    try:
        document = json.loads(data)
        found = document["format"]
        if not isinstance(found, int) or found > FORMAT:
            raise UnsupportedFormatError(
                path=str(path),
                problem="its linnaeus.json is of a newer version",
                found=f"format {found}",
                supported=f"up to format {FORMAT}",
                advice="Update it: pip install --upgrade linnaeus. torch.load reads the file all the same.",
            )
        tensors = tuple(_tensor(entry) for entry in document.pop("tensors"))
        if not isinstance(document["about"], dict):
            raise TypeError("about is no mapping")
    except UnsupportedFormatError:
        raise  # it is a ValueError too
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptCheckpointError(
            path=str(path), problem=f"its description can't be read ({error})", record="linnaeus.json"
        ) from error
    return document, tensors


def _tensor(entry: dict[str, Any]) -> TensorInfo:
    return TensorInfo(
        name=str(entry["name"]),
        dtype=str(entry["dtype"]),
        shape=tuple(map(int, entry["shape"])),
        stride=tuple(map(int, entry["stride"])),
        offset=int(entry["offset"]),
        record=entry["record"],
    )
