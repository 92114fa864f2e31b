"""Watch the calls that change files, and kill a process before any one of them.

Children are forked and end with SIGKILL or `os._exit`: nothing of Python's own tidying runs in them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Every way to change a directory or a file, and the order that durability rests on.
WATCHED = {
    "open": "open", "os.rename": "rename", "os.remove": "unlink", "os.link": "link", "os.symlink": "symlink",
    "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.truncate": "truncate", "os.chmod": "chmod",
}  # fmt: skip
WRAPPED = (
    "fsync", "fdatasync", "write", "pwrite", "writev", "ftruncate", "sendfile",
    "copy_file_range",
)  # fmt: skip


def in_child(act: Callable[[], object], *, kill_after_seconds: float | None = None) -> int:
    """Run something in a forked child, killed after some seconds; return its status or minus the signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
    if kill_after_seconds is not None:
        time.sleep(kill_after_seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


class FileCalls:
    """Counts the calls that change files below a directory, and kills the process before the n-th."""

    def __init__(self, directory: Path, *, kill_before: int | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._directory = str(directory)
        self._kill_before = kill_before
        self._armed = True
        sys.addaudithook(self._audit)
        for name in WRAPPED:
            if hasattr(os, name):
                setattr(os, name, self._wrapped(name, getattr(os, name)))

    def disarm(self) -> None:
        """Stop counting; an audit hook can't be taken out."""
        self._armed = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed or event not in WATCHED:
            return
        if event == "open" and not (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        paths = [os.fsdecode(part) for part in arguments[:2] if isinstance(part, (str, bytes, os.PathLike))]
        self._note(WATCHED[event], paths[-1] if event == "os.rename" else paths[0] if paths else "")

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, *arguments: Any, **keywords: Any) -> Any:
            if self._armed and isinstance(descriptor, int):
                self._note(name, str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            return real(descriptor, *arguments, **keywords)

        return call

    def _note(self, call: str, path: str) -> None:
        if not path.startswith(self._directory) and path.startswith("/"):
            return
        if self._kill_before == len(self.calls):
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls.append((call, path))
