"""Small and read-only filesystems, mounted where only one process sees them, and gone with it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence

import pytest

_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


@functools.cache
def _works() -> bool:
    if shutil.which(_UNSHARE[0]) is None:
        return False
    probe = [*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def with_mounts(*commands: str) -> Sequence[str]:
    """Return what to put before a command line: it then runs after these shell commands, with its own mounts.

    Skips the test where the system gives no mounts.
    """
    if not _works():
        pytest.skip("this system gives no mounts of one's own (unshare --user --mount)")
    script = " && ".join([*commands, 'exec "$@"'])
    return [*_UNSHARE, "sh", "-c", script, "sh"]
