"""From torch's process group, if there is one, to a group that agrees through its store."""

from __future__ import annotations

from typing import Any

from linnaeus.distributed._answering import AnsweringStore
from linnaeus.distributed._group import DEADLINE_SECONDS, SILENCE_SECONDS, Group
from linnaeus.distributed._roles import Roles
from linnaeus.distributed._store import Store


def join(
    channel: str = "main",
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
) -> Group:
    """Return the group of all ranks of torch's default process group, or of this process alone.

    Call it on every rank, in the same order, for each thread that shall agree: each has its connection.

    Args:
        channel: Names the conversation; the same on every rank.
        deadline_seconds: How long to wait for the others before giving up.
        silence_seconds: How long one who does what may take long may give no sign of life.
    """
    import torch.distributed as distributed  # here, so that rooms which may agree stay free of torch

    if not (distributed.is_available() and distributed.is_initialized()):
        return alone()
    roles = Roles.of(distributed.get_rank(), distributed.get_world_size())
    if roles.world_size == 1:
        return alone()
    # The public face of torch has no way to the store of a group that the user made.
    store: Any = distributed.distributed_c10d._get_default_store()
    prefixed: Any = distributed.distributed_c10d.PrefixStore

    # Who joins again, as a second run in one job does, must not find what was said the first time.
    turn = store.add(f"linnaeus/{channel}/joined/{roles.rank}", 1)

    answer_seconds = min(deadline_seconds, silence_seconds)

    def connect() -> Store:
        return AnsweringStore(prefixed(f"linnaeus/{channel}/{turn}", store.clone()), answer_seconds)

    return Group(roles, connect, deadline_seconds=deadline_seconds, silence_seconds=silence_seconds)


def alone() -> Group:
    """Return the group of one process, for which every agreement is immediate."""
    return Group(Roles(), None)
