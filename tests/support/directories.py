"""What is in a directory, for tests that nothing was left there."""

from __future__ import annotations

import os
from pathlib import Path


def names(directory: Path) -> list[str]:
    """Return the names in a directory, hidden ones too, sorted."""
    return sorted(path.name for path in directory.iterdir())


def visible_files(directory: Path) -> list[str]:
    """Return the names of the regular files in a directory, sorted.

    A hidden one may wait to be written over; it goes when the manager is closed.
    """
    visible = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
    return sorted(entry.name for entry in visible if not entry.is_symlink())


def tree(directory: Path) -> list[str]:
    """Return the paths of all files and empty directories beneath a directory, relative to it, sorted.

    What other processes remove meanwhile is left out.
    """
    found = []
    for parent, folders, files in os.walk(directory):
        found += [Path(parent, name) for name in files]
        if not folders and not files and Path(parent) != directory:
            found.append(Path(parent))
    return sorted(str(path.relative_to(directory)) for path in found)


def content(directory: Path) -> dict[str, bytes]:
    """Return the bytes of all files beneath a directory."""
    return {name: (directory / name).read_bytes() for name in tree(directory) if (directory / name).is_file()}
