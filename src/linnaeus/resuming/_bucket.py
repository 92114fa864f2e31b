"""The copies of a run in its bucket as something to go on from.

Choosing costs kilobytes: names tell the order, and the end of a file tells whether it can be used. Only the
chosen one is fetched, into the run's directory, checked to its last byte before it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from linnaeus.errors import CheckpointInvalidError
from linnaeus.files import set_aside
from linnaeus.remote import Remote, RemoteFile, Session
from linnaeus.resolving import all_there, complete_sharded, describe_there, fetch_from, fetch_sharded
from linnaeus.runs import LATEST_LINK, SHARDED_SUFFIX, RunCheckpoint, numbers_in_name, read_checkpoint

_log = logging.getLogger(__name__)


def fetch_newer(
    directory: Path, remote: Remote, than: str | None, *, suffix: str
) -> tuple[RunCheckpoint | None, Sequence[str]]:
    """Bring the newest valid copy that is newer than what is here.

    Args:
        directory: The run's checkpoints.
        remote: The run's place in its bucket.
        than: The name of the newest valid checkpoint here; None when there is none.
        suffix: What to call a damaged file that stands where the copy goes.

    Returns:
        The checkpoint, now in the directory, or None; and why newer copies were passed over.

    Raises:
        RemoteError: The bucket refused or can't be reached.
    """
    passed_over: list[str] = []
    while True:
        with remote.session() as session:
            found = _newest(session, than, {reason.split(":")[0] for reason in passed_over}, passed_over)
        if found is None:
            return None, passed_over
        path = directory / found.name
        try:
            if read_checkpoint(path).is_part and complete_sharded(remote, found.name, path):
                return read_checkpoint(path), passed_over
            if path.exists():
                _log.warning("moved %s aside to %s", path.name, set_aside(path, suffix).name)
            if found.name.endswith(SHARDED_SUFFIX):
                fetch_sharded(remote, found.name, path)
            else:
                fetch_from(remote, found.name, path, progress=None, expected=None)
        except CheckpointInvalidError as error:
            passed_over.append(_reason(found.name, error))
            continue
        return read_checkpoint(path), passed_over


def _newest(
    session: Session, than: str | None, refused: set[str], passed_over: list[str]
) -> RemoteFile | None:
    """Return the newest copy that looks usable, or None when what is here is as new."""
    limit = (numbers_in_name(than) if than is not None else None) or (-1, -1)
    for file in sorted(_copies(session), key=_order, reverse=True):
        if _order(file) <= limit:
            return None
        if file.name in refused:
            continue
        problem = _problem(session, file)
        if problem is None:
            return file
        passed_over.append(_reason(file.name, problem))
    return None


def _problem(session: Session, file: RemoteFile) -> CheckpointInvalidError | None:
    try:
        return describe_there(session, file.name, file.size_bytes).refusal()
    except CheckpointInvalidError as error:
        return error


def _copies(session: Session) -> list[RemoteFile]:
    return [file for file in all_there(session) if numbers_in_name(file.name) and file.name != LATEST_LINK]


def _order(file: RemoteFile) -> tuple[int, int]:
    return numbers_in_name(file.name) or (-1, -1)


def _reason(name: str, error: CheckpointInvalidError) -> str:
    _log.warning("passed over the bucket's %s: %s", name, error)
    return f"{name}: {error}"
