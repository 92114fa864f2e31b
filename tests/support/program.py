"""The installed program `linnaeus`, run as people run it: as a process, with or without a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.b2_server import B2Server

PROGRAM = Path(sys.executable).with_name("linnaeus")

_SHAPING = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_COMPATIBLE", "PYTHONWARNINGS")


@dataclass(frozen=True)
class Ended:
    """How a run ended; in a terminal, `out` is all that it showed, or standard error alone."""

    code: int
    out: str
    err: str = ""


def environment(home: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with a home of its own and nothing that shapes output."""
    kept = {name: value for name, value in os.environ.items() if name not in _SHAPING}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "user-cache"), "TERM": "xterm-256color"}
    return kept | own | dict(changes)


def bucket_options(*settings: str) -> list[str]:
    """Return the options that set keys of ENV.INPUT.BUCKET, each as KEY=VALUE."""
    return [part for setting in settings for part in ("--set", f"ENV.INPUT.BUCKET.{setting}")]


def directory_options(directory: Path) -> list[str]:
    """Return the options that make a directory the bucket."""
    return bucket_options(f"NAME={directory}", "REMOTE=:local:", "ENABLED=true", "RETRIES=1")


def b2_options(server: B2Server) -> list[str]:
    """Return the options that make a server's bucket the bucket."""
    return bucket_options(
        f"ENDPOINT={server.endpoint}", "ENABLED=true", "RETRIES=1", "IDLE_TIMEOUT_SECONDS=30"
    )


def cache_options(directory: Path) -> list[str]:
    """Return the options that make a directory the cache."""
    return ["--set", f"ENV.INPUT.CACHE_DIR={directory}"]


def linnaeus(*arguments: object, cwd: Path, prefix: Sequence[str] = (), **changes: str) -> Ended:
    """Run the program in a directory, without a terminal, and return how it ended."""
    done = subprocess.run(
        [*prefix, str(PROGRAM), *map(str, arguments)],
        cwd=cwd,
        env=environment(cwd, changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def in_terminal(
    *arguments: object, cwd: Path, columns: int = 80, stdout: Path | None = None, **changes: str
) -> Ended:
    """Run the program in a terminal of so many columns.

    Args:
        arguments: Its arguments.
        cwd: Where it runs.
        columns: The terminal's width.
        stdout: Where standard output goes instead of to the terminal, as with `>`.
        changes: Environment variables.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with contextlib.ExitStack() as files:
        target = slave if stdout is None else files.enter_context(stdout.open("wb"))
        process = subprocess.Popen(
            [str(PROGRAM), *map(str, arguments)],
            cwd=cwd,
            env=environment(cwd, changes),
            stdin=slave,
            stdout=target,
            stderr=slave,
            start_new_session=True,
        )
    os.close(slave)
    shown = _read_all(master)
    code = process.wait(timeout=60)
    if stdout is None:
        return Ended(code, shown)
    return Ended(code, stdout.read_text(), shown)


def _read_all(master: int) -> str:
    parts = []
    with contextlib.suppress(OSError):  # Linux reports the other side's end as an input error
        while part := os.read(master, 1 << 16):
            parts.append(part)
    os.close(master)
    return b"".join(parts).decode().replace("\r\n", "\n")
