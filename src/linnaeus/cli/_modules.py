"""Tensors grouped by module, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linnaeus.cli._format import count_text, shape_text, size_text
from linnaeus.cli._tables import FAINT, Column, Row, Rows, cell

if TYPE_CHECKING:
    from linnaeus.pth import TensorInfo

_COLUMNS = (
    Column("tensor"),
    Column("shape"),
    Column("dtype"),
    Column("elements", number=True, named=True),
    Column("size", number=True),
)

# Parts of a run's checkpoint that are no weights: hundreds of tensors that repeat the model's shapes.
NO_WEIGHTS = ("optimizer", "lr_scheduler", "scheduler", "scaler", "amp", "rng", "data")


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of one module, or of a whole folded part."""

    name: str
    tensors: Sequence[TensorInfo]
    folded: bool = False

    @property
    def num_elements(self) -> int:
        """Elements of all its tensors."""
        return sum(tensor.num_elements for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def dtypes(self) -> str:
        """The kinds of numbers in it, each once."""
        return ", ".join(dict.fromkeys(tensor.dtype for tensor in self.tensors))


def modules_of(tensors: Iterable[TensorInfo], *, fold: bool) -> list[Module]:
    """Group tensors by module, in their order.

    Args:
        tensors: With dotted names.
        fold: Make one group of each part of a run's checkpoint that is no weights.
    """
    groups: dict[str, list[TensorInfo]] = {}
    folded: set[str] = set()
    for tensor in tensors:
        top = tensor.name.split(".", 1)[0]
        if fold and top in NO_WEIGHTS:
            folded.add(top)
            groups.setdefault(top, []).append(tensor)
        else:
            groups.setdefault(module_name(tensor.name), []).append(tensor)
    return [Module(name, group, name in folded) for name, group in groups.items()]


def module_name(tensor_name: str) -> str:
    """Return the module that a tensor is listed under: up to the last number in its name, else its parent.

    So "stages.0.1.norm.weight" is listed under "stages.0.1", and "head.weight" under "head".
    """
    parts = tensor_name.split(".")[:-1]
    numbered = [place for place, part in enumerate(parts, 1) if part.isdigit()]
    return ".".join(parts[: numbered[-1]] if numbered else parts)


def modules_table(modules: Sequence[Module]) -> Rows:
    """Return the table of all tensors with a line for each module and one for the total."""
    rows = [row for module in modules for row in _module_rows(module)]
    every = Module("total", [tensor for module in modules for tensor in module.tensors])
    return Rows(_COLUMNS, [*rows, _sum_row(every)])


def _module_rows(module: Module) -> list[Row]:
    if module.folded:
        return [_sum_row(module)]
    # A single tensor, or those at the top, need no line of their own above them.
    if len(module.tensors) == 1 or not module.name:
        return [_tensor_row(tensor.name, tensor) for tensor in module.tensors]
    leaves = [(f"  {tensor.name.removeprefix(f'{module.name}.')}", tensor) for tensor in module.tensors]
    return [_sum_row(module), *(_tensor_row(name, tensor) for name, tensor in leaves)]


def _sum_row(module: Module) -> Row:
    hint = ", see --all" if module.folded else ""
    return Row(
        (
            cell(module.name, "bold"),
            cell(f"{count_text(len(module.tensors), 'tensor')}{hint}", FAINT),
            cell(module.dtypes, FAINT),
            cell(f"{module.num_elements:,}", "bold"),
            cell(size_text(module.size_bytes), "bold"),
        )
    )


def _tensor_row(name: str, tensor: TensorInfo) -> Row:
    return Row(
        (
            cell(name),
            cell(shape_text(tensor.shape)),
            cell(tensor.dtype),
            cell(f"{tensor.num_elements:,}"),
            cell(size_text(tensor.size_bytes)),
        )
    )
