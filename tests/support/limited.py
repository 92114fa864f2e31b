"""Run something in a forked child that may not take much memory or time, so that a crash is a finding."""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_ADDRESSES_BYTES = 4 << 30  # so that a failing test does not harm the machine
_CPU_SECONDS = 60


def in_limited_child(act: Callable[[], object], *, allowed_bytes: int = 200 << 20) -> None:
    """Run something in a child; fail if it raises, crashes, hangs or touches too much memory.

    Args:
        act: What to run; it may assert.
        allowed_bytes: By how much its largest resident size may grow.
    """
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _limit()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            act()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            assert grown < allowed_bytes, f"{grown} bytes were touched"
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc(limit=-6)
            sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"status {os.waitstatus_to_exitcode(status)}"


def _limit() -> None:
    here = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (here + _ADDRESSES_BYTES, here + _ADDRESSES_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
