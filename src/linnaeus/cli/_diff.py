"""`linnaeus diff A B`: what differs between two checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from linnaeus.cli._errors import FAILED
from linnaeus.cli._format import count_text
from linnaeus.cli._named import named_file
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.pth import Comparison

_EXAMPLE = """
linnaeus diff checkpoint_epoch_9.pth checkpoint_epoch_10.pth
linnaeus diff --all --json mine.pth theirs.pth
linnaeus diff --exit-code a.pth b.pth && echo the same
"""


@command(
    "diff",
    summary="Show what differs between the checkpoints A and B.\n\n"
    "Names, types and shapes of tensors; for tensors of one shape in how many elements they differ, the"
    " largest difference, and that relative to the largest value in either; and what is no tensor. Tensors"
    " with the same recorded checksum are not read, so later damage is not seen: that is for verify."
    " A and B are paths, or names as for resolve.",
    example=_EXAMPLE,
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--all", "everything", is_flag=True, help="List every tensor of optimizers and the like too.")
@click.option("--exit-code", "as_status", is_flag=True, help="Exit with 1 when they differ, else with 0.")
def diff(call: Call, *, a: str, b: str, everything: bool, as_status: bool) -> int:
    """Compare two files; that they differ is no failure, unless it is asked for as one."""
    from linnaeus import pth

    found = pth.compare(named_file(a, call), named_file(b, call))
    if call.as_json:
        call.out.json(found.to_plain())
    else:
        _show(call, found, everything=everything)
    return FAILED if as_status and not found.equal else 0


def _show(call: Call, found: Comparison, *, everything: bool) -> None:
    equal = count_text(found.num_equal, "tensor")
    if found.equal:
        call.out.line(f"{equal} and everything else", mark="equal:", style="bold green")
        return
    from linnaeus.cli._differences import tensors_table, values_table

    for table in (tensors_table(found, fold=not everything), values_table(found)):
        if table.rows:
            call.out.show(table)
            call.out.line("")
    call.out.line(f"{_counts(found)}; {equal} equal", mark="differ:", style="bold")


def _counts(found: Comparison) -> str:
    counts = (
        (len(found.tensors), "tensor", "changed"),
        (len(found.only_a), "tensor", "only in A"),
        (len(found.only_b), "tensor", "only in B"),
        (len(found.about) + len(found.values), "other value", "changed"),
    )
    return ", ".join(f"{count_text(number, noun)} {what}" for number, noun, what in counts if number)
