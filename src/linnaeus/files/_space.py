"""Room on the disk, asked before it is needed and recognised when it ran out."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from linnaeus.errors import InsufficientSpaceError

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)

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
