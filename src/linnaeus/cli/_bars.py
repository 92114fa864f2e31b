"""Progress bars, drawn on the renderer's console and erased when they are done."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from linnaeus.cli._format import number_text, safe_text
from linnaeus.remote import Transfer

# Below this there is no room for more than the bar's essentials.
_ROOMY_COLUMNS = 70
_LONGEST_NAME = 32


class TransferBar:
    """Bytes, rate and time left of transfers; appears with the first news of one."""

    def __init__(self, console: Console) -> None:
        roomy = console.width >= _ROOMY_COLUMNS
        more = (
            (TransferSpeedColumn(), TimeRemainingColumn()) if roomy else (TimeRemainingColumn(compact=True),)
        )
        self._bar = Progress(
            _label(), BarColumn(None), DownloadColumn(), *more, console=console, transient=True, expand=True
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, transfer: Transfer) -> None:
        """Show how far a transfer is."""
        total = transfer.total_bytes or None  # not known in the first moment
        if transfer.name not in self._tasks:
            self._bar.start()
            name = _shortened(safe_text(transfer.name))
            self._tasks[transfer.name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[transfer.name], completed=transfer.done_bytes, total=total)

    def stop(self) -> None:
        """Erase it."""
        self._bar.stop()


class StepBar:
    """The steps of one epoch after another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def update(self, label: str, *, done: int, total: int | None, loss: float) -> None:
        """Show how far the epoch is."""
        if self._bar is None:
            columns = (_label(), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
            more = (TimeRemainingColumn(),) if self._console.width >= _ROOMY_COLUMNS else ()
            self._bar = Progress(*columns, *more, console=self._console, transient=True, expand=True)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, loss="")
        self._bar.update(self._task, completed=done, loss=f"loss {number_text(loss)}")

    def stop(self) -> None:
        """Erase it; the next update starts another."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _label() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
