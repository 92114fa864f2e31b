"""Plain values in place of whatever objects an unsafe checkpoint holds, for a safe one to be written.

Objects of other people's classes become dicts of their attributes. What has no such form is refused with its
place, not dropped.
"""

from __future__ import annotations

import enum
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Set
from datetime import date, time, timedelta
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

_MAX_DEPTH = 200
_PLAIN: tuple[type[Any], ...] = (str, bytes, bool, int, float, complex)
_AS_THEY_ARE = (type(None), torch.Size, torch.dtype, torch.device)
# They have attributes, which are not what they are.
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, partial)


class NotPlainError(Exception):
    """Something without a plain form: where it stands, and what it is."""


def plain(obj: Any) -> Any:
    """Return an object of tensors and plain values that says the same; what was shared still is.

    Modules, optimizers and the like become their state dicts, enumerations their values, paths and times
    texts, other objects dicts of their attributes.

    Raises:
        NotPlainError: Something has no plain form; its dotted place is named.
    """
    return _Plain().of(obj, "", 0)


class _Plain:
    """One conversion: what was made of each container, kept with the container so that ids stay unique."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def of(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, _AS_THEY_ARE) or type(value) in _PLAIN:
            return value
        if id(value) in self._open or depth > _MAX_DEPTH:
            raise NotPlainError(f"{path[:80] or 'the object'} holds itself, or is nested too deeply")
        if id(value) not in self._made:
            self._open.add(id(value))
            self._made[id(value)] = self._make(value, path, depth), value
            self._open.remove(id(value))
        return self._made[id(value)][0]

    def _make(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, torch.Tensor):
            return _tensor(value)
        if isinstance(value, dict):
            return self._mapping(value, path, depth)
        if callable(getattr(value, "state_dict", None)) and not isinstance(value, type):
            return self.of(value.state_dict(), path, depth + 1)
        if isinstance(value, (list, tuple, deque, Set)) and not hasattr(value, "_asdict"):
            items = [self.of(item, _joined(path, n), depth + 1) for n, item in enumerate(value)]
            return _sequence_type(value)(items)
        simple = _simple(value)
        return self.of(_attributes(value, path) if simple is value else simple, path, depth + 1)

    def _mapping(self, value: dict[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {
            OrderedDict: OrderedDict,
            Counter: Counter,
        }.get(type(value), dict)()
        for key, item in dict.items(value):
            if not isinstance(key, (*_PLAIN, type(None), tuple)) and not isinstance(key, enum.Enum):
                raise NotPlainError(f"{path or 'the object'} has a key of type {_type_name(key)}")
            made[self.of(key, path, depth + 1)] = self.of(item, _joined(path, key), depth + 1)
        return made


def _tensor(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor of torch's own classes without what hangs on it."""
    if type(value) is torch.nn.Parameter:
        return torch.nn.Parameter(value.data, requires_grad=value.requires_grad)
    return value.detach().as_subclass(torch.Tensor).requires_grad_(value.requires_grad)


def _sequence_type(value: Any) -> type:
    return tuple if isinstance(value, tuple) else set if isinstance(value, Set) else list


def _simple(value: Any) -> Any:
    """Return what stands for a value that is no container, or the value itself where nothing does."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytearray):
        return bytes(value)
    for kind in _PLAIN:
        if isinstance(value, kind):
            return kind(value)
    return _of_numpy(value)


def _of_numpy(value: Any) -> Any:
    """Return numpy's numbers as Python's, its arrays as tensors, its types as texts."""
    if type(value).__module__.partition(".")[0] != "numpy":
        return value
    if hasattr(value, "tolist") and getattr(value, "shape", None) == ():
        return value.tolist()
    try:
        return torch.from_numpy(value.copy())
    except (TypeError, AttributeError):  # texts, objects; no array at all
        return value.tolist() if hasattr(value, "tolist") else str(value)


def _attributes(value: Any, path: str) -> dict[str, Any]:
    """Return an object's attributes.

    Raises:
        NotPlainError: It is code, or has none.
    """
    as_dict: Callable[[], dict[str, Any]] | None = getattr(value, "_asdict", None)  # of named tuples
    if as_dict is not None and isinstance(value, tuple):
        return dict(as_dict())
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    if isinstance(value, _CODE) or not (hasattr(value, "__dict__") or slots):
        raise NotPlainError(f"{path or 'the object'} is of type {_type_name(value)}, which has no plain form")
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return attributes | dict(getattr(value, "__dict__", {}))


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
