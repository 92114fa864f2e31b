"""Real ranks: torchrun on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from torch.distributed import TCPStore

import linnaeus

_TESTS = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """Return what every rank's process needs."""
    source = str(Path(linnaeus.__file__).parents[1])
    found = os.environ | {"PYTHONPATH": f"{_TESTS}{os.pathsep}{source}", "OMP_NUM_THREADS": "1"}
    return found | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"} | more


def torchrun(
    world_size: int,
    directory: Path,
    *scenarios: str,
    seconds: float = 90.0,
    module: str = "support.rank_process",
) -> None:
    """Run scenarios of a module on so many ranks; fail with what they said if any fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(world_size), "-m", module, str(directory), *scenarios]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[:6000]


@contextlib.contextmanager
def ranks(
    world_size: int, directory: Path, scenario: str, *, module: str = "support.rank_process"
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start ranks without a launcher that ends all when one dies; the store outlives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    command = [sys.executable, "-m", module, str(directory), scenario]
    started = []
    try:
        for rank in range(world_size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            env = environment(**at, **own, GROUP_RANK="0")
            started.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
