"""Which checkpoint to resume from.

Candidates come from the run's directory, newest first by what the files say of themselves. Each is verified
to its last byte before it is chosen; damaged ones that are newer than the chosen are moved aside, never
deleted, and only then, so that a directory in which nothing is usable stays as it is and stays an error at
every start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, IncompleteCheckpointError, RemoteError
from linnaeus.files import set_aside
from linnaeus.remote import Remote
from linnaeus.resuming._bucket import fetch_newer
from linnaeus.runs import RunCheckpoint, list_checkpoints, read_checkpoint

_log = logging.getLogger(__name__)

ASIDE_SUFFIX = ".invalid"


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint to resume from, why it is this one, and why each newer one is not."""

    checkpoint: RunCheckpoint
    reason: str
    passed_over: Sequence[str] = field(default=())

    @property
    def path(self) -> Path:
        """The chosen file."""
        return self.checkpoint.path


def choose(
    directory: Path,
    *,
    auto: bool,
    named: str | None,
    resolve: Callable[[str], Path],
    bucket: Remote | None = None,
    whole: Collection[str] | None = None,
) -> Choice | None:
    """Return what to resume from, or None for a fresh start.

    This run's own newest valid checkpoint wins over the named one when it is as new or newer, or when the
    run began from the named one, so that a relaunched job goes on where it was.

    Args:
        directory: The run's checkpoints.
        auto: Whether to look there at all (`TRAIN.AUTO_RESUME`).
        named: The checkpoint that the user names (`TRAIN.RESUME`).
        resolve: From a name to a local file.
        bucket: Where the run's checkpoints are copied to; None for nowhere.
        whole: As for `choose_newest`.

    Raises:
        CheckpointInvalidError: All of the run's checkpoints, or the named one, are unusable.
        LinnaeusError: The named one can't be had; as `resolve` raises.
    """
    own = choose_newest(directory, bucket, whole=whole) if auto else None
    if named is None or (own is not None and own.checkpoint.source == named):
        return own
    path = resolve(named)
    pth.require_valid(path)
    found = read_checkpoint(path)
    if own is not None and own.checkpoint.order >= found.order:
        return own
    return Choice(found, f"TRAIN.RESUME names {named}")


def choose_newest(
    directory: Path, bucket: Remote | None = None, *, whole: Collection[str] | None = None
) -> Choice | None:
    """Return the newest valid checkpoint of a run, or None when it has none at all.

    What is newer in the bucket than here is fetched; a bucket that can't be asked is no reason to stop where
    there is a valid checkpoint here, and is one where there is none.

    Args:
        directory: The run's checkpoints.
        bucket: Where they are copied to; None for nowhere.
        whole: Of directories that hold parts of checkpoints, the names of those whose other parts other nodes
            have, which are known to be good; the others are not looked at. Without it, a part is passed over.

    Raises:
        CheckpointInvalidError: There are some, and none is usable.
        RemoteError: There is none here, and the bucket can't be asked.
    """
    if bucket is None:
        return _choose_here(directory, whole)
    try:
        here, all_bad = _choose_here(directory, whole), None
    except CheckpointInvalidError as error:
        here, all_bad = None, error
    try:
        than = None if here is None else here.path.name
        there, passed_over = fetch_newer(directory, bucket, than, suffix=ASIDE_SUFFIX)
    except RemoteError as error:
        if here is None:
            raise
        _log.warning("%s The newest checkpoint here is gone on from.", error)
        return here
    if there is not None:
        return Choice(there, f"the newest valid one of this run, from {bucket.place}", passed_over)
    if all_bad is not None:
        raise all_bad
    if here is None and passed_over:
        raise CheckpointInvalidError(
            path=bucket.place,
            problem=f"none of this run's copies can be used: {' '.join(passed_over).rstrip('.')}",
            advice="Name one with TRAIN.RESUME and TRAIN.AUTO_RESUME=false, or start afresh elsewhere.",
        )
    return here


def _choose_here(directory: Path, whole: Collection[str] | None) -> Choice | None:
    candidates = list_checkpoints(directory)
    if whole is not None:
        candidates = [one for one in candidates if not one.is_part or one.name in whole]
    passed_over: list[tuple[Path, CheckpointInvalidError]] = []
    for candidate in candidates:
        is_known = candidate.is_part and whole is not None
        problem = candidate.problem or (None if is_known else _damage(candidate.path))
        if problem is None:
            _move_aside([p for p, error in passed_over if not isinstance(error, IncompleteCheckpointError)])
            return Choice(
                candidate, "the newest valid one of this run", tuple(str(e) for _, e in passed_over)
            )
        passed_over.append((candidate.path, problem))
        _log.warning("passed over %s: %s", candidate.path.name, problem)
    _refuse_if_all_bad(directory, [str(problem) for _, problem in passed_over])
    return None


def _damage(path: Path) -> CheckpointInvalidError | None:
    return pth.verify(path).error


def _move_aside(paths: Sequence[Path]) -> None:
    for path in paths:
        _log.warning("moved %s aside to %s", path.name, set_aside(path, ASIDE_SUFFIX).name)


def _refuse_if_all_bad(directory: Path, problems: list[str]) -> None:
    aside = sorted(directory.glob(f"*.*{ASIDE_SUFFIX}*")) if directory.is_dir() else []
    if problems or aside:
        reasons = problems or [f"{path.name} was moved aside as damaged" for path in aside]
        raise CheckpointInvalidError(
            path=str(directory),
            problem=f"none of this run's checkpoints can be used: {' '.join(reasons).rstrip('.')}",
            advice="Put a good one there, name one with TRAIN.RESUME and TRAIN.AUTO_RESUME=false,"
            " or move these files away to start afresh.",
        )
