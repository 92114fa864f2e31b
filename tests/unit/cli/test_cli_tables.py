"""Tables: rows where there is room, blocks where there is not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from linnaeus.cli._modules import module_name, modules_of, modules_table
from linnaeus.cli._tables import Column, Row, Rows, cell, facts
from linnaeus.pth import TensorInfo

_COLUMNS = (Column("name"), Column("epoch", number=True, named=True), Column("size", number=True), Column(""))


def _shown(renderable: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _row(*texts: str, remark: str | None = None) -> Row:
    return Row([cell(text) for text in texts], None if remark is None else cell(remark))


_ROWS = Rows(
    _COLUMNS,
    [_row("a.pth", "3", "12 kB", ""), _row("long.pth", "12", "1 B", "", remark="damaged: it is cut")],
)


def test_a_table_aligns_its_columns() -> None:
    """Texts stand to the left, numbers to the right, remarks below; empty columns are left out."""
    assert _shown(_ROWS, 80) == [
        "name      epoch   size",
        "a.pth         3  12 kB",
        "long.pth     12    1 B",
        "    damaged: it is cut",
    ]


def test_a_narrow_terminal_gets_blocks() -> None:
    """Where the columns do not fit, each row becomes a block in which nothing is cut off."""
    assert _shown(_ROWS, 20) == [
        "a.pth",
        "    epoch 3, 12 kB",
        "long.pth",
        "    epoch 12, 1 B",
        "    damaged: it is",
        "    cut",
    ]


@pytest.mark.parametrize("width", [10, 17, 40, 200])
def test_no_width_loses_a_letter(width: int) -> None:
    """At any width every name is there whole, folded at most."""
    name = "a_very_long_name_without_any_break_in_it_convnext_tiny_22k_1k_384.pth"
    shown = _shown(Rows(_COLUMNS, [_row(name, "1", "2 B", "best")]), width)
    assert name in "".join(line.strip() for line in shown)
    assert all(len(line) <= width for line in shown)


def test_texts_are_no_markup() -> None:
    """Brackets and escape sequences in names are shown, not obeyed."""
    assert _shown(Rows((Column("name"),), [_row("[red]x[/]\x1b[2J")]), 80)[1] == "[red]x[/]\\x1b[2J"
    assert _shown(facts([("[bold]", ":smile: [red]")]), 80) == ["[bold]  :smile: [red]"]


def test_facts_without_a_value_are_left_out() -> None:
    """Only what is known is shown."""
    assert _shown(facts([("epoch", "3"), ("step", ""), ("kind", "linnaeus")]), 80) == [
        "epoch  3",
        "kind   linnaeus",
    ]


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("stages.0.1.norm.weight", "stages.0.1"),
        ("model.head.weight", "model.head"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("conv1.weight", "conv1"),
        ("weight", ""),
        ("optimizer.state.0.exp_avg", "optimizer.state.0"),
    ],
)
def test_the_module_of_a_tensor(tensor: str, module: str) -> None:
    """A tensor is listed under its block, or under its parent where there are no numbers."""
    assert module_name(tensor) == module


def _tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, "float32", shape, tuple(1 for _ in shape), 0, "data/0")


_TENSORS = [
    _tensor("model.head.weight", 2, 3),
    _tensor("model.head.bias", 2),
    _tensor("model.token", 5),
    _tensor("optimizer.state.0.exp_avg", 2, 3),
    _tensor("optimizer.state.1.exp_avg", 2),
]


def test_parts_that_are_no_weights_are_summed_up() -> None:
    """An optimizer takes one line, and the total counts all of it."""
    assert _shown(modules_table(modules_of(_TENSORS, fold=True)), 80) == [
        "tensor       shape                 dtype    elements  size",
        "model.head   2 tensors             float32         8  32 B",
        "  weight     2 x 3                 float32         6  24 B",
        "  bias       2                     float32         2   8 B",
        "model.token  5                     float32         5  20 B",
        "optimizer    2 tensors, see --all  float32         8  32 B",
        "total        5 tensors             float32        21  84 B",
    ]


def test_all_lists_every_tensor() -> None:
    """Unfolded, every tensor has a line."""
    shown = _shown(modules_table(modules_of(_TENSORS, fold=False)), 100)
    assert [line.split()[0] for line in shown] == [
        "tensor",
        "model.head",
        "weight",
        "bias",
        "model.token",
        "optimizer.state.0.exp_avg",
        "optimizer.state.1.exp_avg",
        "total",
    ]
