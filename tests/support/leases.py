"""Write leases, which not every filesystem grants."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest


def require_leases(path: Path) -> None:
    """Skip the test where the filesystem of a file grants no leases, without which nothing is recycled."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        pytest.skip("no leases on this filesystem")
    finally:
        os.close(descriptor)
