"""Send what a run's bucket should have and has not: by hand, and waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointNotFoundError, RemoteConflictError
from linnaeus.remote import Progress, Remote, open_remote
from linnaeus.runs import RunCheckpoint, list_checkpoints
from linnaeus.saving._copies import Copies
from linnaeus.saving._mirror import rules_there

if TYPE_CHECKING:
    from collections.abc import Mapping

    from linnaeus.config import Config


def copies_of(cfg: Config, directory: Path) -> Copies:
    """Return the copies of a run, told by its directory, in the bucket of its config, enabled or not.

    Raises:
        CheckpointNotFoundError: There is no such directory, or no checkpoint in it tells which run it is of.
        RemoteAuthError: The credentials are missing.
    """
    remote: Remote = open_remote(cfg.ENV.OUTPUT.BUCKET)
    found = [c for c in list_checkpoints(directory) if c.is_usable]
    if not found:
        raise CheckpointNotFoundError(identifier=str(directory), places=["it holds no checkpoint of a run"])
    run = next((c.run for c in found if c.run is not None), None)
    return Copies(directory, remote, rules_there(cfg), lambda: run)


def push(copies: Copies, *, progress: Progress | None = None) -> list[RunCheckpoint]:
    """Send what is missing, the newest first, and apply the bucket's rules; return what was sent.

    Raises:
        RemoteConflictError: Another run's file has the name of one; all others were sent.
        RemoteError: The bucket refused or can't be reached.
    """
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


def prune_there(copies: Copies, *, dry_run: bool) -> Mapping[str, tuple[str, ...]]:
    """Remove this run's copies that no rule keeps; return the reasons for each, none for those that go.

    Raises:
        RemoteError: The bucket refused or can't be reached.
    """
    with copies.remote.session() as session:
        plan = copies.plan(session)
        if not dry_run:
            copies.tidy(session)
    return plan


def list_there(copies: Copies) -> list[tuple[RunCheckpoint, bool, bool]]:
    """Return what the run's place holds, newest first: each with whether it is this run's, and is here too.

    Raises:
        RemoteError: The bucket refused or can't be reached.
    """
    here = {c.name: c.size_bytes for c in list_checkpoints(copies.directory)}
    with copies.remote.session() as session:
        found = copies.all_there(session)
    ordered = sorted(found, key=lambda c: (c.order, c.name), reverse=True)
    return [(c, copies.is_ours(c), here.get(c.name) == c.size_bytes) for c in ordered]
