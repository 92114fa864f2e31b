"""Directories that appear and disappear at one instant, as files do.

A finished directory gets its name by a rename; one that is to go loses its name first, so that nobody ever
sees half of it under that name. What a crash leaves has a temporary name, and is swept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from pathlib import Path

from linnaeus.files._commit import NO_LINKS, fsync_directory, remove_file, take_over
from linnaeus.files._owner import temporary_name

_AT_CWD, _EXCHANGE = -100, 2
# What kernels and filesystems answer that can't exchange two names.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
# What the system answers when a file, or a directory that is not empty, has the name already.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def commit_directory(temporary: Path, final: Path, *, durable: bool = True) -> None:
    """Make a finished temporary directory the directory `final`, replacing one that was there.

    Both must be in the same directory, and the files in it on disk.

    Raises:
        OSError: The system refused, or something else than a directory stands there.
    """
    if durable:
        fsync_directory(temporary)
    if final.is_dir() and not final.is_symlink():
        _replace(temporary, final)
    else:
        os.replace(temporary, final)
    if durable:
        fsync_directory(final.parent)


def publish_new_directory(temporary: Path, final: Path) -> bool:
    """Make a finished directory the directory `final`, unless something stands there already.

    Both must be on one filesystem, and the files in it on disk. Safe against any number of processes doing
    the same at once: a rename never replaces a directory that holds anything.

    Returns:
        True when this call made it; False when another one's stands there, and `temporary` stays.
    """
    fsync_directory(temporary)
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    fsync_directory(final.parent)
    return True


def claim_directory(name: Path, own: Path) -> Path | None:
    """Make a new directory that is found under `name` by one of several processes that all try.

    Args:
        name: The common name, in the same directory: a link to `own`, where the filesystem has links.
        own: The name by which it is known whose it is.

    Returns:
        The directory; None where another process was faster.
    """
    own.mkdir()
    try:
        name.symlink_to(own.name)
    except OSError as error:
        own.rmdir()
        if error.errno == errno.EEXIST:
            return None
        if error.errno not in NO_LINKS:
            raise
        with contextlib.suppress(FileExistsError):
            name.mkdir()
            return name
        return None
    return own


def _replace(temporary: Path, final: Path) -> None:
    if _exchange(temporary, final):
        shutil.rmtree(temporary)
        return
    # Between the two renames there is neither; what was there before is then under a temporary name.
    old = temporary_name(final)
    os.replace(final, old)
    os.replace(temporary, final)
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Give two directories each other's name at one instant; tell whether the system can (renameat2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def remove(entry: Path) -> None:
    """Remove a file or a directory with all that is in it; one that is already gone is fine."""
    if entry.is_symlink() or not entry.is_dir():
        remove_file(entry)
        return
    hidden = temporary_name(entry)
    if take_over(entry, hidden):
        shutil.rmtree(hidden)
