"""A lock between processes of one machine (and of several, where the filesystem carries it).

Only ever an optimisation: on some shared filesystems flock silently does nothing, so whoever uses this must
stay correct when two processes hold it at once. The kernel releases it when its holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
_POLL_SECONDS = 0.05


class Lock:
    """Hold `path` exclusively for the length of a `with` block, waiting for as long as it takes.

    Args:
        path: The lock file; made when missing and never removed, since removing it would race.
        on_wait: Called once, before waiting, when another process holds the lock.
        sleep: Waits between two tries.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_wait: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._on_wait = on_wait
        self._sleep = sleep
        self._descriptor = -1

    def __enter__(self) -> Lock:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            # Another user of a shared cache made it; flock needs no right to write.
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not self._try():
                self._on_wait()
                while not self._try():
                    self._sleep(_POLL_SECONDS)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
