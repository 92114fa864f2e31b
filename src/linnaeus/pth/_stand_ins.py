"""Plain values in place of the classes that older training code left in its files and that hold only data.

torch's unpickler makes the classes below instead; `without_stand_ins` turns what is left of them into plain
containers.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any


class _Attributes:
    """Takes a namespace's attributes; becomes a dict when the object is handed out."""


class _NumpyDtype:
    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b"}
_FORMATS |= {"u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?"}


def _number(dtype: _NumpyDtype, data: bytes) -> Any:
    if dtype.code not in _FORMATS:
        raise pickle.UnpicklingError(f"a numpy value of type {dtype.code!r}")
    return struct.unpack(dtype.order + _FORMATS[dtype.code], data)[0]


def _path_text(*parts: str) -> str:
    return str(PurePosixPath(*parts))


REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": _Attributes,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": _NumpyDtype,
    "pathlib.PosixPath": _path_text,
    "pathlib._local.PosixPath": _path_text,
}


def without_stand_ins(tree: Any) -> Any:
    """Return a loaded tree with plain values for stand-ins, at any depth; shared containers stay shared.

    Dicts and lists are changed in place.
    """
    made: dict[int, tuple[Any, Any]] = {}  # tuples with what replaces them, by id, which is why both are kept
    top = [tree]
    waiting: list[Any] = [top]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for place, value in _places(node):
            node[place] = plain = _plain(value, made)
            waiting.extend(_containers(plain))
    return top[0]


def _places(node: Any) -> list[tuple[Any, Any]]:
    return list(dict.items(node) if isinstance(node, dict) else enumerate(node))


def _containers(node: Any) -> Iterator[Any]:
    """Yield the dicts and lists to look into, also those inside tuples."""
    if isinstance(node, (dict, list)):
        yield node
    elif type(node) is tuple:
        for item in node:
            yield from _containers(item)


def _plain(node: Any, made: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(node, _Attributes):
        return vars(node)
    if isinstance(node, _NumpyDtype):
        return node.code
    if type(node) is not tuple:
        return node
    if id(node) not in made:
        parts = tuple([_plain(item, made) for item in node])
        same = all(part is item for part, item in zip(parts, node, strict=True))
        made[id(node)] = node, node if same else parts
    return made[id(node)][1]
