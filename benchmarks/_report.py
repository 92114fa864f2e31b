"""Comparisons as tables for people and as JSON for later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._timing import Comparison, Verdict


def show(console: Console, comparison: Comparison) -> None:
    """Print one comparison."""
    table = Table(title=comparison.title, title_justify="left", title_style="bold")
    table.add_column("way")
    for column in (f"median {comparison.unit}", "min", "max", "x faster"):
        table.add_column(column, justify="right")
    table.add_column("bar")
    reference = comparison.samples[comparison.reference].median
    for name, sample in comparison.samples.items():
        verdicts = [verdict for verdict in comparison.verdicts() if verdict.bar.way == name]
        table.add_row(
            name,
            *(_number(value) for value in (sample.median, sample.lowest, sample.highest)),
            f"{reference / sample.median:.2f}" if sample.median else "",
            "\n".join(map(_spell, verdicts)),
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spell(verdict: Verdict) -> str:
    bar = verdict.bar
    word = "[green]met[/]" if verdict.is_met else "[red]not met[/]"
    if bar.against is None:
        return f"{word}: {verdict.found:.2f}, at most {bar.at_most:g}"
    if bar.faster is not None:
        return f"{word}: {verdict.found:.2f} x faster than {bar.against}, at least {bar.faster:g}"
    return f"{word}: {verdict.found:.2f} x that of {bar.against}, at most {bar.at_most:g}"


def count_met(comparisons: Sequence[Comparison]) -> tuple[int, int]:
    """Return how many bars are met, of how many."""
    verdicts = [verdict for comparison in comparisons for verdict in comparison.verdicts()]
    return sum(verdict.is_met for verdict in verdicts), len(verdicts)


def write(path: Path, comparisons: Sequence[Comparison], about: dict[str, Any]) -> None:
    """Write everything that was seen."""
    document = about | {"comparisons": [_plain(comparison) for comparison in comparisons]}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": comparison.title,
        "unit": comparison.unit,
        "reference": comparison.reference,
        "ways": {
            name: {
                "median": round(sample.median, 3),
                "min": round(sample.lowest, 3),
                "max": round(sample.highest, 3),
                "values": [round(value, 3) for value in sample.values],
            }
            for name, sample in comparison.samples.items()
        },
        "bars": [
            {
                "way": verdict.bar.way,
                "against": verdict.bar.against,
                "faster": verdict.bar.faster,
                "at_most": verdict.bar.at_most,
                "found": round(verdict.found, 3),
                "met": verdict.is_met,
            }
            for verdict in comparison.verdicts()
        ],
    }
