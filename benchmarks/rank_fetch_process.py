"""The ranks of one node that ask for a name; `benchmarks._ranks_fetch` starts two nodes.

    … GROUP_RANK=N python -m benchmarks.rank_fetch_process DIRECTORY RUNS ADDRESS

Ranks are forked when everything is imported, which costs a second for each node instead of each rank. The
bucket's server stands on the first node. Rank 0 asks it what it has served and writes that to `seen.json`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import linnaeus
from benchmarks._bucket import PREFIX, Server, server_apart
from linnaeus.distributed import join
from linnaeus.resolving import resolve, resolve_together

NAME, PER_NODE, NUM_NODES = "asked_for.pth", 8, 2
ALONE, APART, EACH = "one process", "16 that know nothing of each other", "16 ranks, each node has a cache"
PER_JOB, SHARED = "16 ranks, PER_JOB", "16 ranks, one cache for both nodes"


class Case(NamedTuple):
    """How the name is asked for."""

    ranks: int = NUM_NODES * PER_NODE
    together: bool = True
    per_job: bool = False
    shared: bool = False


CASES = {
    ALONE: Case(ranks=1, together=False),
    APART: Case(together=False),
    EACH: Case(),
    PER_JOB: Case(per_job=True),
    SHARED: Case(shared=True),
}


class Seen(NamedTuple):
    """One turn of one case: until the last rank had the file, and what the server counted."""

    milliseconds: float
    bytes_served: int
    num_requests: int


class Rank:
    """One of the processes."""

    def __init__(self, directory: Path, server: Server | None) -> None:
        dist.init_process_group("gloo")
        self._caches, self._server = directory / "caches", server
        self._number, self._node = dist.get_rank(), int(os.environ["GROUP_RANK"])
        self._group = join("bench", deadline_seconds=120)
        told: list[Any] = [None]
        if server is not None:
            keys = {key: value for key, value in os.environ.items() if key.startswith("B2_")}
            told = [(server.bucket.model_dump(), keys)]
        dist.broadcast_object_list(told)
        self._bucket, keys = told[0]
        os.environ.update(keys)

    def take_turn(self, case: Case) -> Seen:
        """Ask for the name as all others do, of caches that are empty."""
        if self._server is not None:
            shutil.rmtree(self._caches, ignore_errors=True)
            self._server.ask("reset_counts")
            os.sync()
        dist.barrier()
        start = time.perf_counter()
        if self._number < case.ranks:
            self._ask(case)
        took = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        num_requests, served = (0, 0) if self._server is None else self._server.ask("counts")
        if self._server is not None:
            served = self._server.ask("bytes_served", PREFIX + NAME)
        return Seen(took.item() * 1e3, served, num_requests)

    def _ask(self, case: Case) -> None:
        cache = self._caches / ("shared" if case.shared else f"node{self._node}")
        bucket = self._bucket | {"PER_JOB": case.per_job}
        cfg = linnaeus.Config.from_plain({"ENV": {"INPUT": {"CACHE_DIR": str(cache), "BUCKET": bucket}}})
        found = resolve_together(NAME, cfg, self._group) if case.together else resolve(NAME, cfg)
        if found != cache / NAME or not found.is_file():
            raise RuntimeError(f"{found} was to be {cache / NAME}")


def _measure(directory: Path, runs: int, server: Server | None) -> None:
    rank = Rank(directory, server)
    seen: dict[str, list[Seen]] = {name: [] for name in CASES}
    for number in range(runs + 1):
        for name, case in CASES.items():
            found = rank.take_turn(case)
            if number:  # the first is for warming up
                seen[name].append(found)
    if server is not None:
        (directory / "seen.json").write_text(json.dumps(seen))
    dist.barrier()


def _fork(act: Callable[[], None], rank: int) -> int:
    """Let a child act as a rank; return its process id."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank % PER_NODE)}
    os.environ["WORLD_SIZE"] = str(NUM_NODES * PER_NODE)
    status = 1
    try:
        act()
        status = 0
    except BaseException:  # noqa: BLE001 - the child must not go on as its parent
        traceback.print_exc()
    os._exit(status)


def main(directory: Path, runs: int, address: str) -> None:
    """Be one node: fork its ranks, and return when all have ended; end all when one fails."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    first = int(os.environ["GROUP_RANK"]) * PER_NODE
    with ExitStack() as stack:
        server = None
        if first == 0:
            server = stack.enter_context(server_apart(address=address))
            server.ask("put", NAME, str(directory / NAME))
        left = set()
        for rank in range(first, first + PER_NODE):
            own = server if rank == 0 else None
            left.add(_fork(lambda own=own: _measure(directory, runs, own), rank))  # type: ignore[misc]
        while left:
            child, status = os.wait()
            left.discard(child)
            if status:
                for other in left:
                    os.kill(other, 9)
                sys.exit(f"a rank ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
