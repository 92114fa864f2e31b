"""Apply the rules of retention to a directory in which no run is saving."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from linnaeus.errors import CheckpointNotFoundError, SaveError
from linnaeus.files import remove
from linnaeus.runs import RunCheckpoint, list_checkpoints
from linnaeus.saving._links import point_links
from linnaeus.saving._retention import Retention, Verdict, decide

_log = logging.getLogger(__name__)


def prune(
    directory: Path,
    rules: Retention,
    *,
    dry_run: bool = False,
    protected: Mapping[str, str] | None = None,
) -> list[Verdict[RunCheckpoint]]:
    """Remove what no rule keeps, and return the verdict on each checkpoint, newest first.

    Args:
        directory: A run's checkpoints.
        rules: What to keep.
        dry_run: Only decide.
        protected: Names of files to keep whatever the rules say, with the reason for each.

    Raises:
        CheckpointNotFoundError: There is no such directory.
        SaveError: The system refused.
    """
    if not directory.is_dir():
        raise CheckpointNotFoundError(identifier=str(directory), places=["there is no such directory"])
    verdicts = decide(list_checkpoints(directory), rules, protected)
    if dry_run or all(verdict.keep for verdict in verdicts):
        return verdicts
    kept = [verdict.checkpoint for verdict in verdicts if verdict.keep]
    newest = next(checkpoint for checkpoint in kept if checkpoint.is_usable)
    try:
        point_links(directory, newest.name, kept, rules)
        for verdict in verdicts:
            if not verdict.keep:
                remove(verdict.checkpoint.path)
                _log.info("pruned %s: %s", verdict.checkpoint.name, verdict.reason)
    except OSError as error:
        raise SaveError(
            path=str(error.filename or directory), problem=error.strerror or str(error)
        ) from error
    return verdicts
