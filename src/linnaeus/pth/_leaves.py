"""The tensors and plain values of a loaded object by dotted name.

Named as a file's description names them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Leaves:
    """What stands in an object's containers; `values` is everything that is no tensor."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def leaves(obj: Any, *, split_sparse: bool = False) -> Leaves:
    """Return every tensor and plain value of a loaded object by its dotted name, in the object's order.

    A container that stands in several places is listed at the first, and a name that is met again gets a
    prime for each time.

    Args:
        obj: What `load` returned.
        split_sparse: Give for a sparse tensor the dense ones that it is stored as, as descriptions do.
    """
    import torch

    found = Leaves()
    for name, value in _walk(obj):
        if not isinstance(value, torch.Tensor):
            found.values[unused(name, found.values)] = value
        elif value.layout is torch.strided or not split_sparse:
            found.tensors[unused(name, found.tensors)] = value
        else:
            for number, part in enumerate(_parts(value)):
                found.tensors[unused(f"{name}.sparse.{number}", found.tensors)] = part
    return found


def values_of(tree: Any) -> dict[str, Any]:
    """Return the values of a tree without tensors by dotted name."""
    values: dict[str, Any] = {}
    for name, value in _walk(tree):
        values[unused(name, values)] = value
    return values


def unused(name: str, taken: dict[str, Any]) -> str:
    """Return the name, with as many primes as make it a new one: {"a.b": …} and {"a": {"b": …}} are two."""
    while name in taken:
        name += "'"
    return name


def _walk(obj: Any) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", obj)]
    while stack:
        path, node = stack.pop()
        inside = _inside(node)
        if not inside:
            yield path, node
        elif id(node) not in seen:
            seen.add(id(node))
            children = [(f"{path}.{key}" if path else str(key), item) for key, item in inside]
            stack.extend(reversed(children))


def _inside(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        attributes = vars(node) if isinstance(node, OrderedDict) else {}
        return [*node.items(), *attributes.items()]
    # Not the tuples of classes of their own, such as torch.Size.
    return list(enumerate(node)) if type(node) in (list, tuple) else []


def _parts(value: torch.Tensor) -> list[torch.Tensor]:
    import torch

    if value.layout is torch.sparse_coo:
        return [value._indices(), value._values()]  # the public ones want a coalesced tensor
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [value.crow_indices(), value.col_indices(), value.values()]
    return [value.ccol_indices(), value.row_indices(), value.values()]
