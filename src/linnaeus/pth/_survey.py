"""What a safe file can't hold, found before anything is written and named by its place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SCALARS = (str, bytes, int, float, complex, bool, type(None))
_CONTAINERS = (dict, OrderedDict, list, tuple, set)
_MAX_DEPTH = 200  # what readers refuse as too deep is not far beyond
_MAX_INT_BITS = 2000  # torch's safe reader knows no longer ones


def survey(obj: Any) -> tuple[str | None, int]:
    """Return what a safe file can't hold of `obj`, or None, and how many bytes its storages have."""
    import torch

    storages: dict[int, int] = {}
    seen: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", obj, 0)]
    while stack:
        path, node, depth = stack.pop()
        problem = _problem(node, depth)
        if problem:
            return f"{path or 'the object'} {problem}", 0
        if isinstance(node, torch.Tensor):
            _count_storage(node, storages)
        if not isinstance(node, _SCALARS) and id(node) not in seen:
            seen.add(id(node))
            stack += [(f"{path}.{key}" if path else str(key), part, depth + 1) for key, part in _parts(node)]
    return None, sum(storages.values())


def _parts(node: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(node, dict):
        yield from node.items()
        yield from ((f"{key!r} (a key)", key) for key in node if isinstance(key, tuple))
    elif isinstance(node, (list, tuple, set)):
        yield from enumerate(node)
    # Tensors, and the ordered dicts that modules give their states in, carry attributes of their own.
    yield from getattr(node, "__dict__", {}).items()


def _problem(node: Any, depth: int) -> str | None:
    import torch

    if depth > _MAX_DEPTH:
        return f"is nested more than {_MAX_DEPTH} deep"
    if isinstance(node, dict):
        odd = next((key for key in node if type(key) not in (*_SCALARS, tuple)), None)
        if odd is not None:
            return f"has a key of type {_type_name(odd)}, which a safe checkpoint can't hold"
    if isinstance(node, int) and node.bit_length() > _MAX_INT_BITS:
        return "is a longer number than a safe checkpoint can hold"
    if type(node) is bytes and not node:
        return "is of type bytes and empty, which a safe checkpoint can't hold"
    plain = type(node) in (*_SCALARS, *_CONTAINERS, torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if plain or isinstance(node, (torch.Size, torch.dtype, torch.device)):
        return None
    return f"is of type {_type_name(node)}, which a safe checkpoint can't hold"


def _count_storage(tensor: torch.Tensor, storages: dict[int, int]) -> None:
    import torch

    if tensor.layout is torch.strided and tensor.device.type != "meta":
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
