"""Pins: what the user wants kept, whatever the rules of retention say.

A pin is an empty file beside the checkpoint, so it needs no rewriting of what may be gigabytes, moves with
the directory, and shows in a bucket's listing too.
"""

from __future__ import annotations

from pathlib import Path

from linnaeus.files import remove_file, write_text

PIN_SUFFIX = ".pinned"


def is_pinned(path: Path) -> bool:
    """Tell whether a checkpoint is pinned."""
    return _pin_of(path).exists()


def set_pin(path: Path, *, pinned: bool) -> bool:
    """Pin a checkpoint, or take its pin away; tell whether that changed anything.

    Raises:
        OSError: Its directory can't be written.
    """
    if is_pinned(path) == pinned:
        return False
    if pinned:
        write_text(_pin_of(path), "")
    else:
        remove_file(_pin_of(path))
    return True


def _pin_of(path: Path) -> Path:
    return path.with_name(path.name + PIN_SUFFIX)
