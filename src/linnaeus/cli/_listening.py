"""What the rooms log and warn of becomes lines on standard error, for as long as a command runs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TextIO

from linnaeus.cli._render import Renderer

_log = logging.getLogger("linnaeus")


class _ToRenderer(logging.Handler):
    def __init__(self, out: Renderer) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._out.warning(record.getMessage())
        else:
            self._out.note(record.getMessage())


@contextlib.contextmanager
def listening(out: Renderer) -> Iterator[None]:
    """Show warnings, and logs from the set level on, through a renderer; put everything back afterwards."""
    handler, level, propagate = _ToRenderer(out), _log.level, _log.propagate
    _log.addHandler(handler)
    _log.propagate = False
    set_level(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown_by(out)
            yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


def set_level(level: int) -> None:
    """Show the library's logs from this level on."""
    _log.setLevel(level)


class _shown_by:  # noqa: N801 - used like a function, and picklable unlike one
    def __init__(self, out: Renderer) -> None:
        self._out = out

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message).strip()
        self._out.warning(text.splitlines()[0] if text else category.__name__)
