"""The picture in the README: what was seen of the ways that bars are about, as lengths."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks._timing import Comparison

_WIDTH = 110
_OURS = "linnaeus"


def plot(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Draw every comparison of times that has a bar, into an SVG file."""
    console = Console(record=True, width=_WIDTH, file=StringIO(), force_terminal=True)
    for comparison in comparisons:
        if comparison.unit == "ms" and comparison.bars:
            console.print(Text(comparison.title, style="bold"), _chart(comparison))
    path.write_text(console.export_svg(title="medians in ms: shorter is better"), encoding="utf-8")


def _chart(comparison: Comparison) -> Table:
    chart = Table.grid(padding=(0, 1), expand=True)
    chart.add_column(width=42, no_wrap=True)
    chart.add_column(ratio=1)
    chart.add_column(justify="right", width=8)
    longest = max(sample.median for sample in comparison.samples.values())
    for name, sample in comparison.samples.items():
        color = "green" if name.startswith((_OURS, "verify")) else "bright_black"
        chart.add_row(name, Bar(longest, 0, sample.median, color=color), f"{sample.median:,.1f}")
    chart.add_row("")
    return chart
