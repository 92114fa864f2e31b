"""From a file's own description and raw records back to the object: no pickle is read, no code is asked for.

The description may come from anybody, so every number in it is checked before it is used: types, ranges,
references, and that each tensor stays inside its storage.
"""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from linnaeus.pth._document import float_of_bits
from linnaeus.pth._emit import MAX_DEPTH

DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_UNQUANTIZED = {name: dtype for name, dtype in DTYPES.items() if not name.startswith("q")}
_HEAVIEST_KEY = 100_000
_LAYOUTS = ("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
_SCHEMES = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")


class LyingError(ValueError):
    """The description contradicts itself or the file; the text says how."""


def build(tree: Any, tensors: Sequence[Any], storages: Callable[[int], torch.UntypedStorage]) -> Any:
    """Make the object that a description describes.

    Args:
        tree: Its `tree`.
        tensors: Its `tensors`.
        storages: Returns the storage of a key; must raise LyingError for keys that are not there.

    Raises:
        LyingError: The description can't be true.
    """
    try:
        return _Builder(tensors, storages).node(tree, 0)
    except (
        KeyError,
        TypeError,
        IndexError,
        ValueError,
        OverflowError,
        AttributeError,
        StopIteration,
        RecursionError,
    ) as error:
        raise LyingError(str(error) or type(error).__name__) from error


class _Builder:
    def __init__(self, tensors: Sequence[Any], storages: Callable[[int], torch.UntypedStorage]) -> None:
        self._tensors = tensors
        self._storages = storages
        # In the order in which the writer met them, which is what {"$same": n} counts.
        self._objects: list[Any] = []
        # A tensor that stands in several places is one object; its number and form say so.
        self._made: dict[tuple[str, int], torch.Tensor] = {}
        # How many values each tuple has with all repetitions written out, by id; `_objects` keeps them alive.
        self._weights: dict[int, int] = {}

    def node(self, node: Any, depth: int) -> Any:
        if depth > 2 * MAX_DEPTH:
            raise LyingError("it is nested too deep")
        if isinstance(node, dict):
            return self._mapping(node, depth)
        if isinstance(node, list):
            made: list[Any] = []
            self._objects.append(made)
            made.extend([self.node(item, depth + 1) for item in node])
            return made
        return node

    def _mapping(self, node: dict[str, Any], depth: int) -> Any:
        kind = next(iter(node), "")
        if not kind.startswith("$"):
            plain: dict[str, Any] = {}
            self._objects.append(plain)
            for key, item in node.items():
                plain[key] = self.node(item, depth + 1)
            return plain
        maker = _MAKERS.get(kind)
        if maker is None:
            raise LyingError(f"it has a value of unknown kind {kind[:40]!r}")
        return maker(self, node, depth)

    def same(self, node: dict[str, Any], _: int) -> Any:
        number = _natural(node["$same"])
        if number >= len(self._objects):
            raise LyingError(f"it refers to object {number}, which is not there")
        return self._objects[number]

    def tensor(self, node: dict[str, Any], depth: int) -> torch.Tensor:
        """Make a tensor, or return the one that was made of the same node before."""
        kind = next(iter(node))
        number = _number_of(node)
        known = self._made.get((kind, number))
        if known is None:
            known = self._made[kind, number] = self._new(kind, node, depth)
        return known

    def _new(self, kind: str, node: dict[str, Any], depth: int) -> torch.Tensor:
        if kind == "$tensor":
            return self.strided(node)
        if kind == "$quantized":
            return self._quantized(node, depth)
        if kind == "$sparse":
            return self._sparse(node, depth)
        data, grows = self.bare_tensor(node["data"], depth), node["$parameter"] is True
        if grows and not (data.is_floating_point() or data.is_complex()):
            raise LyingError("a parameter is of a type that has no gradients")
        return torch.nn.Parameter(data, requires_grad=grows)

    def strided(self, node: Any) -> torch.Tensor:
        number = _natural(node["$tensor"])
        if number >= len(self._tensors):
            raise LyingError(f"it refers to tensor {number}, which is not there")
        key, dtype, shape, stride, offset, *marks = self._tensors[number]
        storage = None if key is None else self._storages(key)
        try:
            if storage is None:
                made = torch.empty_strided(shape, stride, dtype=_UNQUANTIZED[dtype], device="meta")
            else:
                # Bounds were checked when the description was read.
                empty = torch.empty(0, dtype=_UNQUANTIZED[dtype], device=storage.device)
                made = empty.set_(storage, offset, shape, stride)
            return _marked(made, marks) if marks else made
        except RuntimeError as error:
            raise LyingError(f"tensor {number} can't be made ({error})") from error

    def bare_tensor(self, node: Any, depth: int) -> torch.Tensor:
        """Make a tensor that is part of another value and so can't be referred to."""
        if isinstance(node, dict) and "$tensor" in node:
            return self.strided(node)
        if isinstance(node, dict) and next(iter(node), "") in ("$sparse", "$quantized"):
            made: torch.Tensor = (self._sparse if "$sparse" in node else self._quantized)(node, depth)
            return made
        raise LyingError("a tensor is missing")

    def _sparse(self, node: dict[str, Any], depth: int) -> torch.Tensor:
        layout, size = node["$sparse"], [_natural(length) for length in node["size"]]
        parts: list[Any] = [self.bare_tensor(part, depth) for part in node["parts"]]
        if layout not in _LAYOUTS or len(parts) != (2 if layout == "sparse_coo" else 3):
            raise LyingError("a sparse tensor has other parts than its layout")
        try:
            if layout == "sparse_coo":
                coalesced = node["coalesced"] is True
                indices, values = parts
                return torch.sparse_coo_tensor(
                    indices, values, size, check_invariants=True, is_coalesced=coalesced
                )
            compressed, plain, values = parts
            return torch.sparse_compressed_tensor(
                compressed, plain, values, size, layout=getattr(torch, layout), check_invariants=True
            )
        except RuntimeError as error:
            raise LyingError(f"a sparse tensor contradicts itself ({error})") from error

    def _quantized(self, node: dict[str, Any], depth: int) -> torch.Tensor:
        number = _natural(node["$quantized"]["$tensor"])
        key, dtype, shape, stride, offset, *_ = self._tensors[number]
        scheme, by = node["scheme"], node["by"]
        if scheme not in _SCHEMES or len(by) != (2 if scheme == _SCHEMES[0] else 3):
            raise LyingError("a quantized tensor has an unknown scheme")
        # torch's own rebuilder would warn of its typed storages.
        try:
            if scheme == _SCHEMES[0]:
                scale, point = (self.node(part, depth) for part in by)
                made = torch._empty_affine_quantized([0], scale=scale, zero_point=point, dtype=DTYPES[dtype])
            else:
                scales, points = (self.bare_tensor(part, depth) for part in by[:2])
                if _natural(by[2]) >= len(shape) or not (len(scales) == len(points) == shape[by[2]]):
                    raise LyingError("a quantized tensor has other scales than its axis")
                made = torch._empty_per_channel_affine_quantized(
                    shape, scales=scales, zero_points=points, axis=by[2], dtype=DTYPES[dtype]
                )
            return made.set_(self._storages(key), offset, shape, stride)
        except RuntimeError as error:
            raise LyingError(f"a quantized tensor contradicts itself ({error})") from error

    def ordered(self, node: dict[str, Any], depth: int) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        self._objects.append(made)
        self._fill(made, node["$ordered"], depth)
        if "attributes" in node:
            vars(made).update(self.node(node["attributes"], depth + 1))
        return made

    def dictionary(self, node: dict[str, Any], depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self._objects.append(made)
        self._fill(made, node["$dict"], depth)
        return made

    def counter(self, node: dict[str, Any], depth: int) -> Counter[Any]:
        made: Counter[Any] = Counter()
        self._fill(made, node["$counter"], depth)
        self._objects.append(made)
        return made

    def _fill(self, made: dict[Any, Any], pairs: Any, depth: int) -> None:
        for key, item in pairs:
            # The key first, as the writer met it; an assignment would begin with the value.
            made_key = self._hashable(self.node(key, depth + 1))
            made[made_key] = self.node(item, depth + 1)

    def sequence(self, node: dict[str, Any], depth: int) -> Any:
        kind, items = next(iter(node.items()))
        made = tuple(self.node(item, depth + 1) for item in items)
        if kind == "$set":
            unique = {self._hashable(item) for item in made}
            self._objects.append(unique)
            return unique
        if made:
            self._objects.append(made)
            self._weights[id(made)] = 1 + sum([self._weights.get(id(item), 1) for item in made])
        return made

    def _hashable(self, key: Any) -> Any:
        """Return a key, unless hashing it would take ages: tuples of shared tuples of shared tuples."""
        if type(key) is tuple and self._weights.get(id(key), 1) > _HEAVIEST_KEY:
            raise LyingError("a key is too large")
        return key


def _marked(tensor: torch.Tensor, marks: Sequence[Any]) -> torch.Tensor:
    if "conj" in marks:
        torch._C._set_conj(tensor, True)
    if "neg" in marks:
        torch._C._set_neg(tensor, True)
    return tensor.requires_grad_() if "requires_grad" in marks else tensor


def _number_of(node: Any) -> int:
    """Return the number of the first tensor that a tensor's node is made of."""
    while isinstance(node, dict):
        kind = next(iter(node), "")
        if kind == "$tensor":
            return _natural(node[kind])
        node = (
            node["data"]
            if kind == "$parameter"
            else node["parts"][0]
            if kind == "$sparse"
            else node.get(kind)
        )
    raise LyingError("a tensor is missing")


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise LyingError(f"{str(value)[:40]} stands where a count should")
    return value


def _device(node: Mapping[str, Any]) -> torch.device:
    try:
        return torch.device(node["$device"])
    except RuntimeError as error:
        raise LyingError(f"there is no device {node['$device']!r}") from error


def _complex(node: Mapping[str, Any]) -> complex:
    real, imaginary = node["$complex"]
    return complex(float_of_bits(real), float_of_bits(imaginary))


_MAKERS: dict[str, Callable[[_Builder, dict[str, Any], int], Any]] = {
    "$same": _Builder.same,
    "$tensor": _Builder.tensor,
    "$parameter": _Builder.tensor,
    "$sparse": _Builder.tensor,
    "$quantized": _Builder.tensor,
    "$ordered": _Builder.ordered,
    "$dict": _Builder.dictionary,
    "$counter": _Builder.counter,
    "$tuple": _Builder.sequence,
    "$set": _Builder.sequence,
    "$int": lambda _, node, __: int(node["$int"], 16),
    "$float": lambda _, node, __: float_of_bits(node["$float"]),
    "$complex": lambda _, node, __: _complex(node),
    "$bytes": lambda _, node, __: base64.b64decode(node["$bytes"], validate=True),
    "$dtype": lambda _, node, __: DTYPES[node["$dtype"]],
    "$device": lambda _, node, __: _device(node),
    "$size": lambda _, node, __: torch.Size(node["$size"]),
}
