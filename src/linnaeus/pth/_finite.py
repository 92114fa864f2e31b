"""Which tensors hold NaN or infinities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def not_finite(obj: Any) -> list[str]:
    """Return the dotted names of the floating tensors in which some element is NaN or infinite.

    Args:
        obj: A tree of containers and tensors, as `load` returns and `save` takes.
    """
    return [name for name, tensor in _floating(obj) if not _is_finite(tensor.detach())]


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch  # here, so that describing and resolving stay free of it

    dense = tensor if tensor.layout is torch.strided else _values(tensor)
    # The smallest types have no comparison of their own.
    return bool(torch.isfinite(dense.float() if dense.dtype.itemsize == 1 else dense).all())


def _floating(obj: Any) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", obj)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, torch.Tensor):
            if (node.is_floating_point() or node.is_complex()) and not node.is_meta:
                yield path, node
        elif isinstance(node, (dict, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            items = node.items() if isinstance(node, dict) else enumerate(node)
            stack.extend(reversed([(f"{path}.{key}" if path else str(key), item) for key, item in items]))


def _values(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.values()
