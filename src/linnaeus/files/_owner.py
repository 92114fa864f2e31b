"""Temporary names that tell whose they are, so that what a dead process left can be swept.

A process that is killed leaves its temporary files behind. Their names carry a tag: machine (host
name, boot and process namespace), process id and the process's start time. A file is abandoned when
its tag is of this machine and no such process runs. What another machine left in a shared directory can't be
judged from here, so it is swept only when nothing touched it for a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from functools import cache
from pathlib import Path

_ABANDONED_AFTER_SECONDS = 24 * 3600
_LONGEST_START_BYTES = 160
_TAGGED = re.compile(r"^\..*\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.tmp$")


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        # Containers on one host share its name and boot, not its process numbers.
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine's, or None when there is none.

    Never by the clock, which may be set while the process runs: it would be taken for another one.
    """
    try:
        # After the program's name, which may hold blanks and brackets: the state, and 18 fields further on.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _started_elsewhere(pid: int) -> int | None:
    """Return the same on systems that have no such files, in hundredths of a second."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None


def _is_hidden(pid: int) -> bool:
    """Tell whether a process of another user runs that can't be looked at, as clusters are often set up."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def owner_tag() -> str:
    """Return a tag that names this process on this machine and is new at every call."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{_started(pid) or 0}-{os.urandom(4).hex()}"


def temporary_name(path: Path) -> Path:
    """Return a fresh hidden name beside `path`, marked as this process's temporary."""
    # File names are limited in bytes, and a cut inside a character must not leave half of it.
    start = os.fsencode(path.name)[:_LONGEST_START_BYTES].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{owner_tag()}.tmp")


def _is_abandoned(entry: Path) -> bool:
    tag = _TAGGED.match(entry.name)
    if tag is None:
        return False
    if tag["machine"] != _machine():
        return time.time() - entry.lstat().st_mtime > _ABANDONED_AFTER_SECONDS
    started = _started(int(tag["pid"]))
    if started is None:
        return not _is_hidden(int(tag["pid"]))
    # Where they are read back through a clock conversion, start times may be off by a second.
    return abs(started - int(tag["started"])) > 100


def sweep_abandoned(directory: Path) -> list[Path]:
    """Remove the temporary files and directories in `directory` whose process is gone.

    Returns:
        What was removed. Entries that can't be removed are left for the next sweep.
    """
    removed = []
    for entry in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(OSError):
            if not _is_abandoned(entry):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed.append(entry)
    return removed
