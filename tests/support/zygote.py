"""Ranks without the seconds that importing torch takes: forked from a process that has imported it.

They are as real as other processes: each has its number, is killed by signals and ends with a status. What
they share is what a parent hands down, modules and the seed of hashes; where that may matter, a test starts
its processes afresh. The zygote is nobody's child, so that a test which looks at its own does not see it, and
ends with the process that it serves.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_NUMBER = struct.Struct("i")
_PRELOADED = (
    "support.rank_process",
    "support.shard_process",
    "support.rank_apart",
    "torch._dynamo",
    "sklearn.datasets",
)


class Forked:
    """A rank that does scenarios of a module, with the face of `subprocess.Popen`.

    Args:
        module: Name of the module, whose `SCENARIOS` they are.
        arguments: Where, and which.
        env: Its environment.
        said: The file that gets what it writes to standard output and standard error.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], said: Path) -> None:
        task = {"module": module, "arguments": [*arguments], "env": dict(env), "said": str(said)}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        self._connection.sendall(json.dumps(task).encode())
        self._connection.shutdown(socket.SHUT_WR)
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        (number,) = _NUMBER.unpack(self._connection.recv(_NUMBER.size))
        return int(number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its status, or minus the signal that ended it."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from error
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        try:
            return self.wait(timeout=0.0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with what a process of the tests needs to import and be quiet."""
    import linnaeus

    tests, source = Path(__file__).parents[1], Path(linnaeus.__file__).parents[1]
    needed = {"PYTHONPATH": f"{tests}{os.pathsep}{source}", "OMP_NUM_THREADS": "1"}
    return os.environ | needed | {"PYTHONWARNINGS": "ignore"} | more


@functools.cache
def _address() -> str:
    """Start the zygote of this process, the first time, and return where it listens."""
    address = tempfile.mkdtemp(prefix="zygote") + "/s"
    ours_ends, theirs = os.pipe()  # closed by nobody: the zygote sees the end of this process
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        command = [sys.executable, "-m", "support.zygote", str(listener.fileno())]
        with subprocess.Popen(command, env=environment(), stdin=ours_ends, pass_fds=[listener.fileno()]):
            pass
    os.close(ours_ends)
    os.set_inheritable(theirs, False)
    return address


def serve(listener: socket.socket) -> None:
    """Fork a process for every task, until whom this serves has ended."""
    for name in _PRELOADED:
        importlib.import_module(name)
    assert psutil.Process().num_threads() == 1, "threads do not survive a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> None:
    """Start what a task asks for, and tell its number and then its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    task = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(task)
    try:
        connection.sendall(_NUMBER.pack(pid))
        _, status = os.waitpid(pid, 0)
        connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    finally:
        os._exit(0)


def _become(task: Mapping[str, Any]) -> None:
    """Be the process that a task asks for, to its end."""
    said = os.open(task["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
        os.dup2(source, number)
    os.environ.clear()
    os.environ.update(task["env"])
    sys.argv = [task["module"], *task["arguments"]]
    status = 1
    try:
        scenarios = importlib.import_module(task["module"]).SCENARIOS
        importlib.import_module("support.rank_process").main(scenarios)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - told as the interpreter tells it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    # Orphaned, so that it is nobody's child.
    if os.fork() == 0:
        os.setsid()
        serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
