"""Send what a run's bucket should have and has not: by hand, and waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointNotFoundError, RemoteConflictError
from linnaeus.remote import Progress, Remote, Session, open_remote
from linnaeus.runs import RunCheckpoint, list_checkpoints
from linnaeus.saving._copies import OWED, Copies
from linnaeus.saving._mirror import rules_there

if TYPE_CHECKING:
    from collections.abc import Mapping

    from linnaeus.config import Config


def copies_of(cfg: Config, directory: Path) -> Copies:
    """Return the copies of a run in the bucket of its config, enabled or not.

    The run is that of the directory's newest checkpoint, where it has any.

    Raises:
        RemoteAuthError: The credentials are missing.
    """
    remote: Remote = open_remote(cfg.ENV.OUTPUT.BUCKET)
    found = [c for c in list_checkpoints(directory) if c.is_usable]
    run = next((c.run for c in found if c.run is not None), None)
    return Copies(directory, remote, rules_there(cfg), lambda: run)


def _choose_run(copies: Copies, session: Session, wanted: str | None) -> None:
    """Find out which run is meant where nothing of it is here: the one that is named, or the only one.

    Raises:
        CheckpointNotFoundError: There is none, or several begin so.
    """
    if wanted is None and copies.run is not None:
        return
    there = sorted({c.run for c in copies.all_there(session) if c.run is not None})
    fitting = [run for run in there if run.startswith(wanted or "")]
    if not fitting and wanted is None:
        return  # nothing there is anybody's that is known
    if len(fitting) != 1:
        raise CheckpointNotFoundError(
            identifier=wanted or "the run",
            places=[f"{copies.remote.place} holds copies of {', '.join(there) or 'no run'}"],
            advice="Say which one: --run-id ID",
        )
    copies.choose_run(fitting[0])


def push(copies: Copies, *, progress: Progress | None = None) -> list[RunCheckpoint]:
    """Send what is missing, the newest first, and apply the bucket's rules; return what was sent.

    Raises:
        CheckpointNotFoundError: There is no checkpoint here.
        RemoteConflictError: Another run's file has the name of one; all others were sent.
        RemoteError: The bucket refused or can't be reached.
    """
    if not any(c.is_usable for c in list_checkpoints(copies.directory)):
        place = str(copies.directory)
        raise CheckpointNotFoundError(identifier=place, places=["it holds no checkpoint of a run"])
    sent: list[RunCheckpoint] = []
    refused: dict[str, RemoteConflictError] = {}
    with copies.remote.session() as session:
        while missing := [c for c in copies.missing(session).checkpoints if c.name not in refused]:
            try:
                copies.send(session, missing[0], progress)
                sent.append(missing[0])
            except RemoteConflictError as error:
                refused[missing[0].name] = error
        copies.tidy(session)
    for conflict in refused.values():
        raise conflict
    return sent


def not_arrived(cfg: Config, directory: Path) -> Mapping[str, str]:
    """Return which checkpoints of a run its bucket should have and has not, with a reason to keep them.

    There are none when the run is copied to no bucket, or has nothing yet.

    Raises:
        RemoteError: The bucket refused or can't be reached.
    """
    if not cfg.ENV.OUTPUT.BUCKET.ENABLED or not any(c.is_usable for c in list_checkpoints(directory)):
        return {}
    copies = copies_of(cfg, directory)
    with copies.remote.session() as session:
        return {c.name: OWED for c in copies.missing(session).checkpoints}


def prune_there(copies: Copies, *, dry_run: bool, run_id: str | None = None) -> Mapping[str, tuple[str, ...]]:
    """Remove a run's copies that no rule keeps; return the reasons for each, none for those that go.

    Args:
        copies: What is in the bucket.
        dry_run: Only decide.
        run_id: The run, or how its id begins; None for that of the directory, or the only one there is.

    Raises:
        CheckpointNotFoundError: There is no such run, or it isn't clear which one is meant.
        RemoteError: The bucket refused or can't be reached.
    """
    with copies.remote.session() as session:
        _choose_run(copies, session, run_id)
        plan = copies.plan(session)
        if not dry_run:
            copies.tidy(session)
    return plan


def list_there(copies: Copies) -> list[tuple[RunCheckpoint, bool, bool]]:
    """Return what the run's place holds, newest first: each with whether it is this run's, and is here too.

    On a machine that has nothing of a run, it is the only one there is, or none.

    Raises:
        RemoteError: The bucket refused or can't be reached.
    """
    here = {c.name: c.size_bytes for c in list_checkpoints(copies.directory)}
    with copies.remote.session() as session:
        found = copies.all_there(session)
    if copies.run is None and len({c.run for c in found if c.run is not None}) == 1:
        copies.choose_run(next(c.run for c in found if c.run is not None))
    ordered = sorted(found, key=lambda c: (c.order, c.name), reverse=True)
    return [(c, copies.is_ours(c), here.get(c.name) == c.size_bytes) for c in ordered]
