"""Tables for the renderer: one row a line, or a block of lines where the terminal is too narrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from linnaeus.cli._format import safe_text

PROBLEM = "red"
GOOD = "green"
FAINT = "dim"

_GAP = 2


def cell(text: str, style: str = "") -> Text:
    """Return a table's cell; whatever the text holds is shown and not obeyed."""
    return Text(safe_text(text), style=style, overflow="fold")


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `number` aligns it to the right, `named` repeats its heading where rows become blocks."""

    heading: str
    number: bool = False
    named: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A cell for each column, and what is to be said below them."""

    cells: Sequence[Text]
    remark: Text | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A table; columns that no row has anything in are left out."""

    columns: Sequence[Column]
    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        used = [n for n in range(len(self.columns)) if n == 0 or any(r.cells[n].plain for r in self.rows)]
        widths = {n: max(self._lengths(n)) for n in used}
        if sum(widths.values()) + _GAP * (len(used) - 1) <= options.max_width:
            yield from self._as_table(widths)
        else:
            yield from self._as_blocks(used)

    def _lengths(self, column: int) -> Iterator[int]:
        yield len(self.columns[column].heading)
        yield from (row.cells[column].cell_len for row in self.rows)

    def _as_table(self, widths: dict[int, int]) -> Iterator[Text | Padding]:
        yield self._line([cell(column.heading, "bold") for column in self.columns], widths)
        for row in self.rows:
            yield self._line(row.cells, widths)
            yield from _remark(row)

    def _line(self, cells: Sequence[Text], widths: dict[int, int]) -> Text:
        line = Text()
        for n, width in widths.items():
            blanks = " " * (width - cells[n].cell_len)
            before, after = (blanks, "") if self.columns[n].number else ("", blanks)
            line.append(" " * _GAP if n else "").append(before).append_text(cells[n]).append(after)
        return line

    def _as_blocks(self, used: Sequence[int]) -> Iterator[Text | Padding]:
        for row in self.rows:
            yield row.cells[0]
            told = [self._told(n, row.cells[n]) for n in used if n and row.cells[n].plain]
            yield Padding(Text(", ").join(told), (0, 0, 0, 2 * _GAP))
            yield from _remark(row)

    def _told(self, column: int, value: Text) -> Text:
        heading = f"{self.columns[column].heading} " if self.columns[column].named else ""
        return Text(heading).append_text(value)


def _remark(row: Row) -> Iterator[Padding]:
    if row.remark:
        yield Padding(row.remark, (0, 0, 0, 2 * _GAP))


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return names with their values, one pair a line; pairs without a value are left out."""
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    made.add_column(style=FAINT, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(cell(name), cell(value))
    return made
