"""Differences between two checkpoints, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from linnaeus.cli._format import count_text, number_text, shape_text, value_text
from linnaeus.cli._modules import NO_WEIGHTS
from linnaeus.cli._tables import FAINT, GOOD, PROBLEM, Column, Row, Rows, cell

if TYPE_CHECKING:
    from rich.text import Text

    from linnaeus.pth import Comparison, TensorDifference, ValueDifference

_TENSORS = (
    Column("tensor"),
    Column("what differs"),
    Column("elements", number=True, named=True),
    Column("largest", number=True, named=True),
    Column("relative", number=True, named=True),
)
_VALUES = (Column("value"), Column("A", named=True), Column("B", named=True))


def tensors_table(found: Comparison, *, fold: bool) -> Rows:
    """Return the table of all tensors that differ.

    Args:
        found: The comparison.
        fold: Make one line of each part of a run's checkpoint that is no weights.
    """
    rows: list[Row] = []
    folded: dict[str, list[TensorDifference]] = {}
    for difference in found.tensors:
        top = difference.name.split(".", 1)[0]
        if fold and top in NO_WEIGHTS:
            folded.setdefault(top, []).append(difference)
        else:
            rows.append(_tensor_row(difference))
    rows += [_folded_row(top, differences) for top, differences in folded.items()]
    for names, what, style in ((found.only_a, "only in A", PROBLEM), (found.only_b, "only in B", GOOD)):
        rows += _only_rows(names, what, style, fold=fold)
    return Rows(_TENSORS, rows)


def values_table(found: Comparison) -> Rows:
    """Return the table of what differs and is no tensor."""
    return Rows(_VALUES, [_value_row(difference) for difference in (*found.about, *found.values)])


def _tensor_row(difference: TensorDifference) -> Row:
    return Row(
        (
            cell(difference.name),
            cell(_form_text(difference), PROBLEM),
            *_numbers(difference.num_differing, difference.largest, difference.relative),
        )
    )


def _form_text(difference: TensorDifference) -> str:
    """Return the shapes and types, where they differ, else "values"."""
    shapes, dtypes = difference.shapes, difference.dtypes
    told = []
    if shapes[0] != shapes[1]:
        told.append(f"{shape_text(shapes[0])} → {shape_text(shapes[1])}")
    if dtypes[0] != dtypes[1]:
        told.append(f"{dtypes[0]} → {dtypes[1]}")
    return ", ".join(told) or "values"


def _numbers(num_elements: int | None, largest: float | None, relative: float | None) -> Iterator[Text]:
    yield cell("" if num_elements is None else f"{num_elements:,}")
    yield cell("" if largest is None else number_text(largest))
    yield cell("" if relative is None else number_text(relative))


def _folded_row(top: str, differences: Sequence[TensorDifference]) -> Row:
    """Return one line for all that differ in a part that is no weights."""
    return Row(
        (
            cell(top, "bold"),
            cell(f"{count_text(len(differences), 'tensor')}, see --all", FAINT),
            *_numbers(
                sum(d.num_differing or 0 for d in differences),
                max((d.largest for d in differences if d.largest is not None), default=None),
                max((d.relative for d in differences if d.relative is not None), default=None),
            ),
        )
    )


def _only_rows(names: Sequence[str], what: str, style: str, *, fold: bool) -> list[Row]:
    tops: dict[str, int] = {}
    rows = []
    for name in names:
        top = name.split(".", 1)[0]
        if fold and top in NO_WEIGHTS:
            tops[top] = tops.get(top, 0) + 1
        else:
            rows.append(Row((cell(name), cell(what, style), *_numbers(None, None, None))))
    for top, number in tops.items():
        told = f"{count_text(number, 'tensor')} {what}, see --all"
        rows.append(Row((cell(top, "bold"), cell(told, style), *_numbers(None, None, None))))
    return rows


def _value_row(difference: ValueDifference) -> Row:
    sides = difference.sides
    cells = [cell(value_text(sides[side])) if side in sides else cell("none", FAINT) for side in ("a", "b")]
    return Row((cell(difference.name), *cells))
