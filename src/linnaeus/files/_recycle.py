"""The blocks of a file that nobody needs any more, for the next file.

Rewriting blocks that are in the page cache is several times faster than getting new ones. It is only safe
when the file is provably nobody's: this process made it, it has one name, and no process has it open or
mapped, which a write lease shows (Linux; `fcntl(2)`, F_SETLEASE). Everywhere else the file is simply
removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from linnaeus.files._commit import remove_file
from linnaeus.files._owner import temporary_name


@dataclass(frozen=True, slots=True)
class Recycled:
    """A file under a temporary name whose blocks may be written over, while it is nobody's."""

    path: Path
    inode: int

    def is_nobodys(self) -> bool:
        """Tell whether it still has one name and no process has it open: to be asked right before writing."""
        return _is_nobodys(self.path, self.inode)


def recycle(path: Path, inode: int) -> Recycled | None:
    """Take a file away under a temporary name, to be written over, if it is provably nobody's.

    The file is gone from its name in any case, also when this returns None. A reader that has it open
    or mapped keeps its bytes.

    Args:
        path: A file that this process made and whose removal is decided.
        inode: Its number when it was made; another one means that somebody replaced it.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        remove_file(path)
        return None
    hidden = temporary_name(path)
    try:
        # First the name, so that nobody can open it between the proof and the writing.
        os.replace(path, hidden)
    except FileNotFoundError:
        return None
    if _is_nobodys(hidden, inode):
        return Recycled(hidden, inode)
    remove_file(hidden)
    return None


def _is_nobodys(path: Path, inode: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        return status.st_ino == inode and status.st_nlink == 1 and _lease(descriptor)
    finally:
        os.close(descriptor)


def _lease(descriptor: int) -> bool:
    """Tell whether the kernel grants a write lease: only to the one who alone has a file open."""
    try:
        # Should somebody open it right now, the kernel tells the holder by a signal; this one is ignored
        # by default, SIGIO would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        # Who opens it at this very instant waits for the lease to end; this tells, and the file is theirs.
        alone = fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    except OSError:
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return alone


def is_in_use(path: Path) -> bool:
    """Tell whether some process has a file open or mapped; where that can't be told, it counts as in use."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        return not _lease(descriptor)
    finally:
        os.close(descriptor)


def share_disk(path: Path, other: Path) -> bool:
    """Let a file take no disk of its own by linking it to another of equal content.

    Returns:
        False when the filesystem can't, or they share it already.
    """
    if path.samefile(other):
        return False
    hidden = temporary_name(path)
    try:
        os.link(other, hidden)
    except OSError:
        return False
    os.replace(hidden, path)
    return True
