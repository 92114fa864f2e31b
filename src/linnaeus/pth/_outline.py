"""What a checkpoint's pickle describes, without making a tensor and without running its code.

A pickle is a program; this unpickler gives it inert parts only. Names that stand for tensors and containers
become stubs, every other name becomes an object that swallows whatever is done to it and is reported.
"""

from __future__ import annotations

import io
import mmap
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from linnaeus.pth._bounds import MAX_DEPTH, pickle_end
from linnaeus.pth._document import MAX_NAME
from linnaeus.pth._globals import STAND_INS, is_data, item_bytes
from linnaeus.pth._stubs import Inert, StorageStub, StorageType, TensorStub, stub_for

# What unpickling a damaged stream raises; the stubs themselves raise nothing else.
BAD_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    ImportError,
)


@dataclass(slots=True)
class Outline:
    """The object tree of a checkpoint, with stubs for tensors.

    `refused` are the names that its pickle asks for beyond data, `replaced` those of `STAND_INS`.
    """

    tree: Any
    storages: dict[str, StorageStub] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)

    def tensors(self) -> Iterator[tuple[str, TensorStub]]:
        """Yield every tensor with its dotted path, in the order of the file, each container once.

        Raises:
            pickle.UnpicklingError: Containers are nested too deeply.
        """
        seen: set[int] = set()
        stack: list[tuple[str, Any, int]] = [("", self.tree, 0)]
        while stack:
            path, node, depth = stack.pop()
            if len(path) > MAX_NAME:
                raise pickle.UnpicklingError(f"a name is longer than {MAX_NAME} characters: {path[:40]}…")
            if isinstance(node, TensorStub):
                yield path, node
            elif isinstance(node, (dict, list, tuple)) and id(node) not in seen:
                seen.add(id(node))  # a list may hold itself, and sharing may multiply without end
                if depth > MAX_DEPTH:  # the paths would grow with the square of the depth
                    raise pickle.UnpicklingError("its containers are nested too deeply")
                children = [
                    (f"{path}.{key}" if path else str(key), item, depth + 1) for key, item in _inside(node)
                ]
                stack.extend(reversed(children))


def _inside(node: Any) -> list[tuple[Any, Any]]:
    if not isinstance(node, dict):
        return list(enumerate(node))
    # Not node.items(): a pickle may set an attribute of that name.
    attributes = vars(node).items() if isinstance(node, OrderedDict) else ()
    return [*dict.items(node), *attributes]


class _OutlineUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, outline: Outline) -> None:
        super().__init__(file, encoding="utf-8")
        self._outline = outline

    def find_class(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if not is_data(dotted):
            if dotted not in self._outline.refused:
                self._outline.refused.append(dotted)
            return Inert
        if dotted in STAND_INS:
            self._outline.replaced.add(dotted)
        return stub_for(dotted)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid or _text(pid[0]) != "storage":
            return Inert()
        kind, key, _location, count = pid[1:5]
        if not isinstance(kind, StorageType) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a storage of unknown type or size")
        storage = StorageStub(_text(key), kind.dtype, kind.item_bytes, count * kind.item_bytes)
        return self._outline.storages.setdefault(storage.key, storage)


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def outline_of(stream: bytes | BinaryIO) -> Outline:
    """Read one pickle and return what it describes.

    A pickle that asks for more than data may break over the inert parts it is given; then the tree is None,
    and what it asked for until then is told all the same.

    Args:
        stream: The pickle's bytes, or a file positioned at its start (left at its end).

    Raises:
        BAD_PICKLE: The stream is damaged.
    """
    outline = Outline(tree=None)
    data = stream[: pickle_end(stream)] if isinstance(stream, bytes) else _cut_out(stream)
    try:
        outline.tree = _OutlineUnpickler(io.BytesIO(data), outline).load()
    except BAD_PICKLE:
        if not outline.refused:
            raise
    return outline


def _cut_out(file: BinaryIO) -> bytes:
    start = file.tell()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        end = pickle_end(mapped, start)
    return file.read(end - start)


def extent_bytes(tensor: TensorStub) -> int:
    """Return how far into its storage a tensor reaches, in bytes."""
    if any(length == 0 for length in tensor.shape):
        return 0
    last = tensor.offset + sum(
        (length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    return (last + 1) * item_bytes(tensor.dtype)
