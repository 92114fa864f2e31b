"""Let the disk begin while a file is still being written, so that the fsync at its end has little left to do.

It promises nothing: only an fsync does. Linux has a call for it (`sync_file_range(2)`); elsewhere nothing is
done.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin with what is not under way yet, and don't wait
# Large enough for few calls, small enough that the disk has something to do from the beginning.
_WINDOW_BYTES = 8 << 20


class WriteBack:
    """Is told what was written to a file, in whatever order, and has it put on disk in the background.

    Args:
        descriptor: The open file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start = self._end = 0

    def wrote(self, position: int, size_bytes: int) -> None:
        """Note what was written."""
        if position != self._end:
            self.begin()
            self._start = position
        self._end = position + size_bytes
        if self._end - self._start >= _WINDOW_BYTES:
            self.begin()

    def begin(self) -> None:
        """Begin with what was noted."""
        call = _sync_file_range()
        if call is not None and self._end > self._start:
            call(self._descriptor, self._start, self._end - self._start, _WRITE)  # refused: fsync will tell
        self._start = self._end


@functools.cache
def _sync_file_range() -> Callable[..., int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call
