"""What arrived, or would arrive, of pretrained weights: for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from linnaeus.cli._format import count_text, share_text
from linnaeus.cli._tables import FAINT, GOOD, PROBLEM, Column, Row, Rows, cell

if TYPE_CHECKING:
    from linnaeus.cli._render import Renderer
    from linnaeus.pretrained import LoadReport, SourceReport

_MODULES = (
    Column("module"),
    Column("tensors", number=True, named=True),
    Column("loaded", number=True, named=True),
    Column("adapted", number=True, named=True),
    Column("fresh", number=True, named=True),
    Column("from", named=True),
)
_SOURCES = (
    Column("source"),
    Column("arrived", number=True),
    Column("tensors used", number=True, named=True),
    Column("left", number=True, named=True),
    Column("rules", named=True),
    Column("found", named=True),
)
_NAMED = 3


def show_report(out: Renderer, report: LoadReport, *, mark: str = "") -> None:
    """Print a report as tables and what is to be looked into; `mark` precedes it."""
    out.line(report.summary(), mark=mark, style="bold")
    if not report.sources:
        return
    for table in (_sources_table(report), modules_table(report)):
        out.line("")
        out.show(table)
    remarks = [*_left(report), *_unclaimed(report), *report.problems(), *report.notes]
    for number, remark in enumerate(remarks):
        if not number:
            out.line("")
        out.line(remark)


def _sources_table(report: LoadReport) -> Rows:
    return Rows(_SOURCES, [_source_row(source, report.min_coverage) for source in report.sources])


def _source_row(source: SourceReport, least: float) -> Row:
    found = f"under {source.container!r}" if source.container else "bare"
    prefix = f", {source.prefix!r} stripped" if source.prefix else ""
    cells = (
        cell(source.name, "bold"),
        cell(share_text(source.coverage), GOOD if source.coverage >= least else PROBLEM),
        cell(f"{source.num_used:,}"),
        cell(f"{source.num_tensors - source.num_used:,}"),
        cell(source.rules or ""),
        cell(found + prefix),
    )
    return Row(cells, cell(source.path, FAINT))


def modules_table(report: LoadReport) -> Rows:
    """Return the table of a report's parameters by module, with a line for the total."""
    claims: dict[str, dict[str, None]] = {}
    for arrival in report.arrivals:
        if arrival.source:
            claims.setdefault(_module(arrival.name, report), {})[arrival.source] = None
    rows = [
        _module_row(
            (row.module, ""),
            (row.num_tensors, row.loaded, row.adapted, row.fresh),
            ", ".join(claims.get(row.module, {})),
        )
        for row in report.modules()
    ]
    num_tensors = sum(row.num_tensors for row in report.modules())
    total = (num_tensors, report.num_loaded, report.num_adapted, report.num_fresh)
    return Rows(_MODULES, [*rows, _module_row(("total", "bold"), total, "")])


def _module(name: str, report: LoadReport) -> str:
    return next(
        (r.module for r in report.modules() if name.startswith(f"{r.module}.") or name == r.module), name
    )


def _module_row(module: tuple[str, str], counts: tuple[int, int, int, int], origin: str) -> Row:
    tensors, loaded, adapted, fresh = (f"{count:,}" if count else "" for count in counts)
    style = PROBLEM if fresh and not (loaded or adapted) else ""
    cells = (
        cell(*module),
        cell(tensors),
        cell(loaded),
        cell(adapted),
        cell(fresh, style),
        cell(origin, FAINT),
    )
    return Row(cells)


def _left(report: LoadReport) -> Iterator[str]:
    """Yield for each source and reason what of it went nowhere."""
    groups: dict[tuple[str, str], list[str]] = {}
    for unused in report.unused:
        groups.setdefault((unused.source, unused.reason), []).append(unused.name)
    for (source, reason), names in groups.items():
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        yield f"left of {source}: {', '.join(names[:_NAMED])}{more}: {reason}"


def _unclaimed(report: LoadReport) -> Iterator[str]:
    arrivals = report.unclaimed()
    if arrivals:
        modules = list(dict.fromkeys(_module(a.name, report) for a in arrivals))
        count = sum(arrival.num_elements for arrival in arrivals)
        yield f"claimed by nobody: {', '.join(modules)} ({count_text(count, 'parameter')})"
