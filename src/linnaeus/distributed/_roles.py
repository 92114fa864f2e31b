"""Which of the job's processes this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Roles:
    """One process's place in the job.

    Attributes:
        rank: Its number among all.
        world_size: How many there are.
        local_rank: Its number on its node.
        node: The number of its node.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the one that acts when one suffices."""
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether it is the one that acts when one of each node suffices."""
        return self.local_rank == 0

    @classmethod
    def of(cls, rank: int, world_size: int, environment: Mapping[str, str] = os.environ) -> Roles:
        """Return the roles of a rank, with what the launcher says of its node.

        A launcher that says nothing leaves every rank the leader of a node of its own: more is done than
        need be then, and nothing wrong.
        """
        local_rank = _number(environment, "LOCAL_RANK", "SLURM_LOCALID", otherwise=0)
        node = _number(environment, "GROUP_RANK", "SLURM_NODEID", otherwise=rank)
        return cls(rank, world_size, local_rank, node)


def _number(environment: Mapping[str, str], *names: str, otherwise: int) -> int:
    found = (environment[name] for name in names if environment.get(name, "").isdigit())
    return int(next(found, otherwise))
