"""The copies of a run of several ranks: the first rank sends them, and all wait for it at the end.

Of shards in directories that nodes do not share, one rank of each node sends its node's part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from linnaeus.config import Config
from linnaeus.distributed import Group
from linnaeus.remote import Remote, open_in_background
from linnaeus.runs import RunCheckpoint
from linnaeus.saving._copies import Copies
from linnaeus.saving._mirror import Mirror, NoMirror, rules_there

_WHAT = "the run's end"


class MirrorOfJob:
    """What keeps a run's copies when it has several ranks; each call must be made on every rank.

    Args:
        mirror: Keeps the copies, on the ranks that send; elsewhere one that does nothing.
        group: All ranks.
    """

    def __init__(self, mirror: Mirror | NoMirror, group: Group) -> None:
        self._mirror, self._group = mirror, group

    def notice(self) -> None:
        """Say that there is something new in the directory; returns at once."""
        self._mirror.notice()

    def owed(self, local: Sequence[RunCheckpoint]) -> Mapping[str, str]:
        """Return which checkpoints the bucket should and may not have; none but on ranks that send."""
        return self._mirror.owed(local)

    def remote(self) -> Remote | None:
        """Return the place with the copies on the first rank, None on the others."""
        return self._mirror.remote() if self._group.roles.is_first else None

    def close(self, seconds: float | None = None) -> None:
        """Wait until all has arrived, on every rank, but not for ever.

        Who leaves early would take the process group, or the launcher's patience, away from the one that
        still sends. A rank that closes because of an error waits for nobody: the others may never come here.

        Args:
            seconds: How long at most; None for as long as was said at first.

        Raises:
            RemoteError: Something has not arrived in time; on every rank.
            PeerFailedError: A rank does not come to its end.
        """
        if sys.exc_info()[0] is not None:
            self._mirror.close(seconds)
            return
        try:
            self._group.barrier(_WHAT)
        except BaseException:
            self._mirror.close(seconds)
            raise
        what, mine = "copying the run to its bucket", self._group.rank
        self._group.decide_apart(what, mine, lambda _: self._mirror.close(seconds))


def open_mirror(
    cfg: Config, directory: Path, run: Callable[[], str], group: Group | None = None, *, acts: bool = True
) -> Mirror | MirrorOfJob | NoMirror:
    """Return what copies a run to the bucket of its config, or what does nothing when that is not enabled.

    Args:
        cfg: `ENV.OUTPUT.BUCKET` says where to and what to keep there, `SCHEDULE.CHECKPOINT` what is best.
        directory: The run's checkpoints.
        run: Returns the id of the run.
        group: The ranks of the run; None for one process.
        acts: Whether this rank sends what is in the directory.

    Raises:
        RemoteAuthError: The credentials are missing.
        ConfigError: The bucket's remote is none.
    """
    if not cfg.ENV.OUTPUT.BUCKET.ENABLED:
        return NoMirror()
    if group is None or group.world_size == 1:
        return _mirror_of(cfg, directory, run)
    opened: list[Mirror] = []

    def open_own() -> None:
        if acts:
            opened.append(_mirror_of(cfg, directory, run, group.rank))

    group.agree("opening the run's bucket", open_own, alike=True)
    return MirrorOfJob(opened[0] if opened else NoMirror(), group)


def _mirror_of(cfg: Config, directory: Path, run: Callable[[], str], rank: int = 0) -> Mirror:
    bucket = cfg.ENV.OUTPUT.BUCKET
    copies = Copies(directory, open_in_background(bucket), rules_there(cfg), run, rank=rank)
    return Mirror(copies, bucket, close_seconds=bucket.CLOSE_TIMEOUT_SECONDS)
