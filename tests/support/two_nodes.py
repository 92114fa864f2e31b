"""Two nodes on one machine: network namespaces with a link between them that can be cut."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .torchrun import environment

ADDRESSES = ("10.77.5.1", "10.77.5.2")
_PORT = "29655"


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


class TwoNodes:
    """Two namespaces, "a" and "b", each with a loopback and one end of a link."""

    def __init__(self, name: str) -> None:
        self._names = (f"{name}a", f"{name}b")

    def refusal(self) -> str:
        """Make them; return why that is not allowed here, or nothing."""
        first, second = self._names
        ends = (f"v{first}", f"v{second}")
        steps = [["netns", "add", one] for one in self._names]
        steps += [
            ["link", "add", ends[0], "netns", first, "type", "veth", "peer", "name", ends[1], "netns", second]
        ]
        for one, end, address in zip(self._names, ends, ADDRESSES, strict=True):
            steps += [["-n", one, "addr", "add", f"{address}/24", "dev", end]]
            steps += [["-n", one, "link", "set", device, "up"] for device in ("lo", end)]
        for step in steps:
            done = _ip(*step)
            if done.returncode != 0:
                return f"ip {' '.join(step)}: {done.stderr.strip()}"
        return ""

    def cut(self) -> None:
        """Cut the link: what is sent gets lost, and nobody is told."""
        for one in self._names:
            subprocess.run(["ip", "-n", one, "link", "set", f"v{one}", "down"], check=True)

    def remove(self) -> None:
        """Remove them."""
        for one in self._names:
            _ip("netns", "del", one)

    def start(
        self, node: int, arguments: list[str], environment: dict[str, str], said: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start Python on a node, told where rank 0's store is; what it says goes into a file."""
        name = self._names[node]
        at = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": _PORT, "GROUP_RANK": str(node)}
        command = ["ip", "netns", "exec", name, sys.executable, *arguments]
        everything = environment | at | {"GLOO_SOCKET_IFNAME": f"v{name}"}
        return subprocess.Popen(command, env=everything, stderr=said)

    @contextlib.contextmanager
    def ranks(self, per_node: int, directory: Path, scenario: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Start ranks on both; rank 0 holds the store."""
        world_size, started = 2 * per_node, []
        try:
            for rank in range(world_size):
                node, local = divmod(rank, per_node)
                own = {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world_size)}
                arguments = ["-m", "support.rank_process", str(directory), scenario]
                with (directory / f"said_{rank}").open("wb") as said:
                    started.append(self.start(node, arguments, environment(**own), said))
            yield started
        finally:
            for process in started:
                process.kill()
                process.wait()


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes | str]:
    """Yield two nodes for the length of the block, or why this machine allows none."""
    if sys.platform != "linux":
        yield "network namespaces are Linux's"
        return
    nodes = TwoNodes(f"ln{os.getpid() % 100_000}")
    try:
        yield nodes.refusal() or nodes
    except FileNotFoundError:
        yield "there is no program ip"
    finally:
        nodes.remove()
