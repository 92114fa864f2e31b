"""Real ranks on this machine, of the launcher torchrun or forked without it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.distributed import TCPStore

from support import zygote
from support.zygote import Forked

_SAID_CHARACTERS = 2000  # of each rank in a failure: the end, where the error is
_GRACE_SECONDS = 5.0  # for the others to say what they met


def environment(**more: str) -> dict[str, str]:
    """Return what every rank's process needs."""
    return zygote.environment(GLOO_SOCKET_IFNAME="lo", **more)


def torchrun(
    world_size: int,
    directory: Path,
    *scenarios: str,
    seconds: float = 90.0,
    module: str = "support.rank_process",
) -> None:
    """Run scenarios of a module on ranks that the launcher starts; fail with what they said if any fails.

    It takes some seconds for every rank: `on_ranks` is for where the launcher is not the point.
    """
    logs = directory / ".torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(world_size), "--log-dir", str(logs), "--redirects", "3"]
    command += ["-m", module, str(directory), *scenarios]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds)
    said = [next(logs.glob(f"*/attempt_0/{rank}/stderr.log"), Path("none")) for rank in range(world_size)]
    assert done.returncode == 0, f"{done.stderr[-_SAID_CHARACTERS:]}\n{_ends_of(said)}"


def on_ranks(
    world_size: int,
    directory: Path,
    *scenarios: str,
    seconds: float = 90.0,
    module: str = "support.rank_process",
    per_node: int | None = None,
) -> None:
    """Run scenarios of a module on so many forked ranks; fail with what they said if any fails."""
    deadline = time.monotonic() + seconds
    with ranks(world_size, directory, *scenarios, module=module, per_node=per_node) as started:
        while any(rank.poll() is None for rank in started) and time.monotonic() < deadline:
            if any(rank.poll() for rank in started):
                deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
            time.sleep(0.01)
        codes = [rank.poll() for rank in started]
        said = _ends_of([_said(directory, rank) for rank in range(world_size)])
        assert codes == [0] * world_size, f"{codes}\n{said}"


def _said(directory: Path, rank: int) -> Path:
    return directory / f".said_{rank}"


def _ends_of(said: Sequence[Path]) -> str:
    """Return what each rank said last, in the order of ranks."""
    ends = [path.read_text(errors="replace")[-_SAID_CHARACTERS:] if path.is_file() else "" for path in said]
    return "\n".join(f"rank {rank} said:\n{end}" for rank, end in enumerate(ends))


@contextlib.contextmanager
def ranks(
    world_size: int,
    directory: Path,
    *scenarios: str,
    module: str = "support.rank_process",
    per_node: int | None = None,
) -> Iterator[list[Forked]]:
    """Start ranks without a launcher that ends all when one dies; the store outlives them.

    They are told that they are on nodes of `per_node` ranks each, or all on one.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    num_local = per_node or world_size
    env = environment(**at, WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(num_local))
    started: list[Forked] = []
    try:
        for rank in range(world_size):
            node, local = divmod(rank, num_local)
            own = env | {"RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(node)}
            said = _said(directory, rank)
            started.append(Forked(module, [str(directory), *scenarios], env=own, said=said))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
