"""Room on the disk, asked before it is needed and recognised when it ran out."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from linnaeus.errors import InsufficientSpaceError

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)

# The filesystem has no such call, or the system has not.
_NO_RESERVING = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

# Directory entries, block rounding and whatever else is being written meanwhile.
_MARGIN_BYTES = 1 << 20


def is_out_of_space(error: BaseException) -> bool:
    """Tell whether an OSError means a full disk or a used-up quota."""
    return isinstance(error, OSError) and error.errno in _OUT_OF_SPACE


def require_space(path: Path, needed_bytes: int) -> None:
    """Check that a file of `needed_bytes` fits where `path` would be.

    Raises:
        InsufficientSpaceError: The filesystem has less room than that.
    """
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < needed_bytes + _MARGIN_BYTES:
        raise InsufficientSpaceError(
            path=str(path),
            problem="the disk is too full",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give a file its size and its room on the disk, where the filesystem can, so that writing meets no end.

    Not by `posix_fallocate`: where a filesystem can't (network ones, FUSE, ZFS), the C library then writes a
    byte into every block, which takes as long as writing the file.

    Raises:
        OSError: There is no room.
    """
    if os.fstat(descriptor).st_size > size_bytes:
        os.ftruncate(descriptor, size_bytes)
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # Linux's
    if fallocate is None:
        return
    while fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)):
        error = ctypes.get_errno()
        if error in _NO_RESERVING:
            return
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))
