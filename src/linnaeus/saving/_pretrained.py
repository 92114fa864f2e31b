"""The report of what a run's weights came from, beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

from linnaeus.errors import SaveError
from linnaeus.files import write_text
from linnaeus.runs import REPORT_NAME


def write_report(directory: Path, report: str) -> None:
    """Write a report's text in one step.

    Raises:
        SaveError: The system refused.
    """
    path = directory / REPORT_NAME
    try:
        write_text(path, report)
    except OSError as error:
        raise SaveError(path=str(path), problem=f"the report of a load: {error.strerror}") from error
