"""What a pickle gets in place of what it asks for: parts that record, or do nothing, and can't be changed.

None of them can be used to reach anything else: a pickle may call them, index them and set states on them.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linnaeus.pth._globals import storage_type


@dataclass(frozen=True, slots=True)
class StorageStub:
    """A storage: `key` names its record, `size_bytes` is what the pickle claims it holds."""

    key: str
    dtype: str
    item_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorStub:
    """A tensor: shape, stride and offset (in elements) over a storage; None where it has no bytes."""

    storage: StorageStub | None
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    requires_grad: bool = False


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class, for example `torch.FloatStorage`."""

    dtype: str
    item_bytes: int


class _Dtype(str):
    __slots__ = ()


class Inert:
    """Stands for anything that is not a tensor, a number, a text or a container; does nothing."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> Inert:
        return Inert()

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def append(self, _: object) -> None:
        """Swallow an item."""

    def extend(self, _: object) -> None:
        """Swallow items."""

    def add(self, _: object) -> None:
        """Swallow an item."""


def _swallow_state(self: TensorStub, _: object) -> None:
    """Do nothing with gradient flags and hooks, which the earliest versions of torch add."""


def _refuse_state(self: object, _: object) -> None:
    raise pickle.UnpicklingError("a state for what has none")


# Set here, since dataclasses give frozen classes with slots a __setstate__ of their own, which obeys.
TensorStub.__setstate__ = _swallow_state  # type: ignore[attr-defined]
StorageType.__setstate__ = _refuse_state  # type: ignore[attr-defined]
StorageStub.__setstate__ = _refuse_state  # type: ignore[attr-defined]


class _Rebuild:
    """A function that a pickle may call but not change: a bare one would take new defaults as its state."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    __setstate__ = _refuse_state


def _lengths(values: Any) -> tuple[int, ...]:
    return tuple(_length(value) for value in values)


def _length(value: Any) -> int:
    if isinstance(value, int) and 0 <= value < 2**63:
        return int(value)
    raise pickle.UnpicklingError("a tensor of impossible shape, stride or offset")


def _rebuilt(
    storage: StorageStub | None, dtype: object, offset: object, shape: Any, stride: Any, requires_grad: object
) -> TensorStub:
    if not isinstance(storage, StorageStub | None) or not isinstance(dtype, str):
        raise pickle.UnpicklingError("a tensor without storage or type")
    lengths, steps = _lengths(shape), _lengths(stride)
    if len(lengths) != len(steps):
        raise pickle.UnpicklingError("a tensor whose shape and stride differ in length")
    return TensorStub(storage, str(dtype), lengths, steps, _length(offset), requires_grad is True)


def _tensor(
    storage: StorageStub, offset: object, shape: Any, stride: Any, requires_grad: object = None, *_: Any
) -> TensorStub:
    return _rebuilt(storage, storage.dtype, offset, shape, stride, requires_grad)


def _tensor_v3(
    storage: StorageStub,
    offset: object,
    shape: Any,
    stride: Any,
    requires_grad: object,
    _hooks: Any,
    dtype: object,
    *_: Any,
) -> TensorStub:
    return _rebuilt(storage, dtype, offset, shape, stride, requires_grad)


def _quantized(storage: StorageStub, offset: object, shape: Any, stride: Any, *_: Any) -> TensorStub:
    return _tensor(storage, offset, shape, stride)


def _meta(dtype: object, shape: Any, stride: Any, requires_grad: object) -> TensorStub:
    return _rebuilt(None, dtype, 0, shape, stride, requires_grad)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _sparse(_layout: Any, data: Any) -> dict[str, Any]:
    return {f"sparse.{number}": part for number, part in enumerate(data)}


def _from_type(function: Callable[..., Any], _type: Any, arguments: Any, _state: Any) -> Any:
    return function(*arguments)


def _text_to_bytes(text: str, *_: Any) -> bytes:
    return text.encode("latin-1")


def _no_bytes(*_: Any) -> bytes:
    return b""  # bytearray(10**12) would be obeyed by the real one


def _no_set(*_: Any) -> tuple[()]:
    return ()  # tensors in a set have no name


def _device(kind: Any, index: Any = None) -> str:
    return str(kind)[:40] if index is None else f"{str(kind)[:40]}:{str(index)[:40]}"


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _text_to_bytes,
    "builtins.bytearray": _no_bytes,
    "builtins.set": _no_set,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch.device": _device,
    "torch.nn.parameter.Parameter": _parameter,
}

# Types of C, on which nothing can be set.
_TYPES: dict[str, Any] = {
    "builtins.complex": complex,
    "collections.Counter": OrderedDict,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": tuple,
}


def stub_for(name: str) -> Any:
    """Return what stands for a name that means nothing but data, as a pickle spells it."""
    module, _, last = name.rpartition(".")
    found = storage_type(last)
    if found:
        return StorageType(*found)
    if module == "torch" and last.islower() and last != "device":
        return _Dtype(last)
    name = name.replace("__builtin__.", "builtins.")
    if name in _FUNCTIONS:
        return _Rebuild(_FUNCTIONS[name])
    return _TYPES.get(name, Inert)
