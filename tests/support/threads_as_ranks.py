"""Ranks as threads of one process, on a store in memory: agreement without a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore

from linnaeus.distributed import Group, Roles
from linnaeus.distributed._answering import AnsweringStore


def run_ranks(
    world_size: int,
    act: Callable[[Group], Any],
    *,
    deadline_seconds: float = 20.0,
    without: tuple[int, ...] = (),
    fan_out: int = 16,
    passing: bool = False,
) -> dict[int, Any]:
    """Run an act on every rank but some, and return what came of it by rank: a value or an exception.

    With `passing` they can pass bytes too, as real ranks do.
    """
    store, outcomes = HashStore(), {}

    def connect() -> Any:
        plain = PrefixStore("t", store)
        return AnsweringStore(plain, deadline_seconds) if passing else plain

    def run(rank: int) -> None:
        group = Group(
            Roles(rank, world_size),
            connect,
            deadline_seconds=deadline_seconds,
            silence_seconds=deadline_seconds,
            fan_out=fan_out,
        )
        try:
            outcomes[rank] = act(group)
        except BaseException as error:  # noqa: BLE001 - whatever came of it is what is asked for
            outcomes[rank] = error

    threads = [
        threading.Thread(target=run, args=(rank,)) for rank in range(world_size) if rank not in without
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes
