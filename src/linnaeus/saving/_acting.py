"""Which rank acts in a run's directory: one of all that see it."""

from __future__ import annotations

from pathlib import Path

from linnaeus.config import CheckpointScheduleConfig
from linnaeus.distributed import Group
from linnaeus.resolving import who_shares


def acts_here(plan: CheckpointScheduleConfig, directory: Path, group: Group) -> bool:
    """Tell whether this rank prunes and sends what is in the run's directory; call it on every rank.

    One file for all ranks is rank 0's business. Directories of shards may be in parts: then it is the same
    rank of each node for the whole run, so that what must not be pruned yet is known to who prunes.

    Args:
        plan: `SCHEDULE.CHECKPOINT`.
        directory: The run's checkpoints, as this rank spells it; made where it is missing.
        group: All ranks.

    Raises:
        SaveError: The directory can't be written.
        PeerFailedError: A rank failed or is missing.
    """
    if group.world_size == 1 or plan.FORMAT != "sharded":
        return group.roles.is_first
    leader, _ = who_shares(directory, group, "looking who shares the run's directory")
    return leader == group.rank
