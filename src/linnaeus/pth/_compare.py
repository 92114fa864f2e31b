"""What differs between two checkpoints, reading only the tensors that may.

Two storages of the same size and recorded CRC-32 hold the same bytes; what lies alike in them is equal
without being read. Whether the bytes still are as recorded is for `verify` to tell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.pth._archive import Archive, not_readable, open_archive
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import examine
from linnaeus.pth._leaves import Leaves, leaves, unused, values_of
from linnaeus.pth._load import load

if TYPE_CHECKING:
    import torch

_JSON_VALUES = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor that both files have and that is not the same in them.

    Attributes:
        name: Its dotted name.
        shapes: In the first file and in the second.
        dtypes: Likewise.
        largest: The largest absolute difference of two elements; None where the shapes differ. Infinite where
            one element is finite and the other is not.
        relative: `largest` as a share of the largest absolute value in either tensor.
        num_differing: How many elements differ; 0 where only the types do.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    largest: float | None
    relative: float | None
    num_differing: int | None

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "shapes": [list(shape) for shape in self.shapes],
            "dtypes": list(self.dtypes),
            "largest": self.largest,
            "relative": self.relative,
            "num_differing": self.num_differing,
        }


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A value that is no tensor and differs; `sides` has it under "a" and "b", where it is there."""

    name: str
    sides: Mapping[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form; what JSON has no values for is spelled as Python would."""
        return {"name": self.name} | {side: _jsonable(value) for side, value in self.sides.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two checkpoints.

    Attributes:
        a: The first file.
        b: The second file.
        only_a: Names of tensors that only the first has.
        only_b: Names of tensors that only the second has.
        tensors: Those that both have and that differ.
        num_equal: How many tensors are equal.
        about: What the files say differently of themselves (epoch, step, metrics, …).
        values: Other plain values of the objects that differ.
    """

    a: Path
    b: Path
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    num_equal: int
    about: tuple[ValueDifference, ...]
    values: tuple[ValueDifference, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.only_a or self.only_b or self.tensors or self.about or self.values)

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "equal": self.equal,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "tensors": [tensor.to_plain() for tensor in self.tensors],
            "num_equal": self.num_equal,
            "about": [value.to_plain() for value in self.about],
            "values": [value.to_plain() for value in self.values],
        }


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compare two checkpoints by the names in them; containers of other types are alike.

    Args:
        a: The first file.
        b: The second file.

    Raises:
        CheckpointInvalidError: One of them is no checkpoint, unsafe or damaged (see its subclasses).
    """
    first, second = _side(Path(a)), _side(Path(b))
    about = _differing_values(values_of(dict(first.found.about)), values_of(dict(second.found.about)))
    if _are_same(first, second):
        return Comparison(first.path, second.path, (), (), (), len(first.tensors), about, ())
    of_a, of_b = (leaves(load(side.path), split_sparse=True) for side in (first, second))
    shared = [name for name in of_a.tensors if name in of_b.tensors]
    differing = [_difference(name, first, second, of_a, of_b) for name in shared]
    told = {difference.name for difference in about}
    return Comparison(
        a=first.path,
        b=second.path,
        only_a=tuple(name for name in of_a.tensors if name not in of_b.tensors),
        only_b=tuple(name for name in of_b.tensors if name not in of_a.tensors),
        tensors=tuple(difference for difference in differing if difference),
        num_equal=differing.count(None),
        about=about,
        values=tuple(v for v in _differing_values(of_a.values, of_b.values) if v.name not in told),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the files; `archive` is None where it records no checksums."""

    found: Examination
    archive: Archive | None
    tensors: Mapping[str, TensorInfo]

    @property
    def path(self) -> Path:
        return self.found.path

    def content_of(self, name: str) -> object:
        """Return what tells a tensor's content and place in it, or None where nothing does."""
        info = self.tensors.get(name)
        record = self.archive.records.get(info.record) if self.archive and info and info.record else None
        if info is None or record is None:
            return None
        return record.size_bytes, record.crc32, info.dtype, info.shape, info.stride, info.offset


def _side(path: Path) -> _Side:
    found = examine(path)
    found.require_safe()
    archive = found.archive
    if archive is None and found.document is not None and found.sharded is None:
        try:
            archive = open_archive(path)
        except OSError as error:
            raise not_readable(path, error) from error
    tensors: dict[str, TensorInfo] = {}
    for info in found.tensors:
        tensors[unused(info.name, tensors)] = info
    return _Side(found, archive if archive and archive.has_checksums else None, tensors)


def _are_same(a: _Side, b: _Side) -> bool:
    """Tell whether every record is the same, that of the object's structure too; then nothing is read."""
    if a.archive is None or b.archive is None:
        return False
    contents = [
        {name: (r.size_bytes, r.crc32) for name, r in side.archive.records.items() if name.startswith("data")}
        for side in (a, b)
        if side.archive
    ]
    return contents[0] == contents[1]


def _difference(name: str, a: _Side, b: _Side, of_a: Leaves, of_b: Leaves) -> TensorDifference | None:
    x, y = of_a.tensors[name], of_b.tensors[name]
    content = a.content_of(name)
    if content is not None and content == b.content_of(name) and _forms(x) == _forms(y):
        return None
    shapes, dtypes = (tuple(x.shape), tuple(y.shape)), (_dtype(x), _dtype(y))
    if shapes[0] != shapes[1] or x.is_meta or y.is_meta:
        same = shapes[0] == shapes[1] and dtypes[0] == dtypes[1] and x.is_meta == y.is_meta
        return None if same else TensorDifference(name, shapes, dtypes, None, None, None)
    from linnaeus.pth._differ import gap_between

    gap = gap_between(x, y)
    if not gap.num_elements and dtypes[0] == dtypes[1]:
        return None
    return TensorDifference(name, shapes, dtypes, gap.largest, gap.relative, gap.num_elements)


def _forms(tensor: torch.Tensor) -> object:
    """Return what else than bytes makes a tensor's values."""
    if tensor.is_quantized:
        return object()  # scales lie elsewhere: never alike
    return tensor.is_conj(), tensor.is_neg()


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _differing_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[ValueDifference, ...]:
    differing = []
    for name in dict.fromkeys([*a, *b]):
        sides = {side: values[name] for side, values in (("a", a), ("b", b)) if name in values}
        if len(sides) == 1 or not _same_value(sides["a"], sides["b"]):
            differing.append(ValueDifference(name, sides))
    return tuple(differing)


def _same_value(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _jsonable(value: Any) -> Any:
    return value if isinstance(value, _JSON_VALUES) else repr(value)
