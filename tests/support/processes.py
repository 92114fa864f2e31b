"""Real processes that resolve at the same time, and a look at what runs beneath them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from linnaeus.config import BucketConfig

_TESTS = Path(__file__).parent.parent


class Resolving:
    """A process that is about to resolve a name; `start` lets it, `outcome` waits for what came of it."""

    def __init__(self, prefix: Sequence[str] = (), **environment: str) -> None:
        import linnaeus

        source = str(Path(linnaeus.__file__).parents[1])
        env = os.environ | {"PYTHONPATH": f"{_TESTS}{os.pathsep}{source}"} | environment
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "support.resolving_process"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def start(
        self,
        name: str,
        cache: Path,
        bucket: BucketConfig,
        *,
        action: str = "resolve",
        locks: bool = True,
        log: Path | None = None,
    ) -> None:
        """Wait until the process is ready, and set it to work: "resolve", "fetch" or "send"."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self._process.communicate()
        plain = {key: value for key, value in dict(bucket).items() if not key.startswith("APP_KEY")}
        task = {"name": name, "cache": str(cache), "bucket": plain, "action": action}
        self._process.stdin.write(json.dumps(task | {"locks": locks, "log": log and str(log)}) + "\n")
        self._process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        """Wait for the end and return `path`, or `error` with `fields` and `text`; and what is `left`."""
        output, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors
        return dict(json.loads(output))

    def kill(self) -> None:
        """End the process as the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it if it still runs, and close its pipes."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def resolving(count: int, prefix: Sequence[str] = (), **environment: str) -> Iterator[list[Resolving]]:
    """Start so many processes, which wait to be set to work, and end them with the block."""
    processes = [Resolving(prefix, **environment) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait until something holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def children(pid: int) -> list[psutil.Process]:
    """Return the processes beneath one."""
    return psutil.Process(pid).children(recursive=True)


def open_files(pid: int) -> set[Path]:
    """Return the files that a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(entry.readlink())
    return found
