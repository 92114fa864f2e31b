"""The one place that prints: results on standard output, everything else on standard error.

Texts that come from files and buckets are made harmless here, styles are dropped where there is no
terminal, and tables are never cut off when they go to a file or a pipe. Rich is imported when first needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from linnaeus.cli._format import safe_text, spelled_numbers

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from linnaeus.cli._bars import StepBar
    from linnaeus.remote import Progress

# Wider than any table: a pipe has no width.
_ENDLESS = 100_000


class Renderer:
    """Prints for one run of the program."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal that can't show a character must not end the program.
                stream.reconfigure(errors="backslashreplace")

    @cached_property
    def _results(self) -> Console:
        return _console(sys.stdout)

    @cached_property
    def _remarks(self) -> Console:
        return _console(sys.stderr)

    def line(self, text: str, *, mark: str = "", style: str = "") -> None:
        """Print a line of the result, never wrapped; `mark` precedes it in the given style."""
        _print_line(self._results, text, mark, style)

    def path(self, path: Path) -> None:
        """Print a path alone, byte for byte as the system has it, for `$(...)`."""
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path.absolute()) + b"\n")

    def json(self, document: object) -> None:
        """Print a document of plain values as JSON."""
        sys.stdout.write(json.dumps(spelled_numbers(document), indent=2, allow_nan=False) + "\n")

    def show(self, renderable: RenderableType) -> None:
        """Print a table or the like, without the blanks that pad its last column."""
        with self._results.capture() as captured:
            self._results.print(renderable)
        self._results.file.write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))

    def note(self, text: str) -> None:
        """Tell what is being done."""
        _print_line(self._remarks, text, "", "dim", whole=True)

    def warning(self, text: str) -> None:
        """Tell what deserves attention and stops nothing."""
        _print_line(self._remarks, text, "warning:", "yellow")

    def error(self, text: str) -> None:
        """Tell what failed."""
        _print_line(self._remarks, _redacted(text), "error:", "bold red", keep_lines=True)

    def raw_error(self, text: str) -> None:
        """Tell a traceback."""
        _print_line(self._remarks, _redacted(text).rstrip("\n"), "", "", keep_lines=True)

    @contextlib.contextmanager
    def transfers(self) -> Iterator[Progress | None]:
        """Give what draws the progress of transfers; None where standard error is no terminal."""
        if not sys.stderr.isatty():
            yield None
            return
        from linnaeus.cli._bars import TransferBar

        bar = TransferBar(self._remarks)
        try:
            yield bar.update
        finally:
            bar.stop()

    @contextlib.contextmanager
    def steps(self) -> Iterator[StepBar | None]:
        """Give a bar for the steps of an epoch; None where standard error is no terminal."""
        if not sys.stderr.isatty():
            yield None
            return
        from linnaeus.cli._bars import StepBar

        bar = StepBar(self._remarks)
        try:
            yield bar
        finally:
            bar.stop()

    def flush(self) -> None:
        """Hand everything printed to the system."""
        sys.stdout.flush()

    def abandon(self) -> None:
        """Print no more: the reader has gone, and Python's own flush at the end must not stumble over it."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_missing_streams() -> None:
    """Lead the standard streams that whoever started the program closed to nowhere.

    A file that is opened while one is missing takes its number: what a library prints would then end up
    in a checkpoint that is being written.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class HonestConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error being handled; rich would end the program in its own way

    width = None if stream.isatty() else _ENDLESS
    return HonestConsole(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _print_line(
    console: Console, text: str, mark: str, style: str, *, keep_lines: bool = False, whole: bool = False
) -> None:
    from rich.text import Text

    line = Text(style=style if whole else "")
    line.append(f"{mark} " if mark else "", style=style)
    line.append(safe_text(text, keep_lines=keep_lines))
    console.print(line, soft_wrap=True)


def _redacted(text: str) -> str:
    # Errors of linnaeus hold no secret; what nobody foresaw might.
    from linnaeus.config import redact, secrets_in_environment

    return redact(text, secrets_in_environment())
