"""Downloads that were cut: kept for a while, and gone on with by whoever wants the same file next.

A download works in a directory that only its process owns. When it fails, or is found dead, the directory is
nobody's; taking it over is one rename, which only one process can do, so two never write to the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.files import is_abandoned, sweep_abandoned, take_over, temporary_name, write_text
from linnaeus.remote import kept_bytes

# From here on several streams pay, and so does going on where a cut left it.
LARGE_BYTES = 16 << 20
# Where the whole files of a directory are brought together, where one grows, and what they all must be.
_SHARDS, _GROWING, _FILES = "shards", "growing", "files.json"

_MARK = ".part"
# Less is sooner fetched again than looked after.
_WORTH_KEEPING_BYTES = 1 << 18
_KEPT_SECONDS = 7 * 24 * 3600


def sweep(work: Path) -> list[Path]:
    """Remove what the dead have left, but for recent downloads that can be gone on with.

    Returns:
        What was removed.
    """
    removed = sweep_abandoned(work, keep=_is_worth_keeping)
    for entry in _released(work, ""):
        if not _is_worth_keeping(entry):
            shutil.rmtree(entry, ignore_errors=True)
            removed.append(entry)
    return removed


def own_directory(work: Path, key: str) -> Path:
    """Return a directory of this process, with what earlier downloads of the same name have left in it."""
    mine = temporary_name(work / f"{key}{_MARK}")
    for entry in sorted(_to_have(work, key), key=_kept, reverse=True):
        with contextlib.suppress(PermissionError):  # another user's
            if take_over(entry, mine):
                return mine
    mine.mkdir()
    return mine


def release(mine: Path, work: Path, key: str) -> None:
    """Leave a directory to whoever wants the same file next, or remove it when there is little in it."""
    if _is_worth_keeping(mine):
        take_over(mine, work / f"{key}{_MARK}-{os.urandom(4).hex()}")
    else:
        shutil.rmtree(mine, ignore_errors=True)


def room_for(private: Path, files: Sequence[Sequence[Any]]) -> tuple[Path, Path]:
    """Return where the whole files of a directory are brought together, and where others grow.

    What an earlier try left of the same files is there; what it left of others is dropped.

    Args:
        private: A directory of this process.
        files: Of each file its name, size and SHA-256.
    """
    shards, growing, told = private / _SHARDS, private / _GROWING, private / _FILES
    text = json.dumps([list(file) for file in files])
    if not told.is_file() or told.read_text(encoding="utf-8") != text:
        shutil.rmtree(shards, ignore_errors=True)
        shutil.rmtree(growing, ignore_errors=True)
        write_text(told, text)
    for place in (shards, growing):
        place.mkdir(exist_ok=True)
    return shards, growing


def unfinished(work: Path) -> list[Path]:
    """Return the directories of downloads that nobody is at work on."""
    return list(_to_have(work, ""))


def _kept(entry: Path) -> int:
    return kept_bytes(entry) + pth.size_of(entry / _SHARDS) + pth.size_of(entry / _GROWING)


def _to_have(work: Path, key: str) -> Iterator[Path]:
    yield from _released(work, key)
    for entry in work.iterdir():
        if entry.name.startswith(f".{key}") and f"{_MARK}." in entry.name and is_abandoned(entry):
            yield entry


def _released(work: Path, key: str) -> Iterator[Path]:
    return (entry for entry in work.iterdir() if entry.name.startswith(key) and f"{_MARK}-" in entry.name)


def _is_worth_keeping(entry: Path) -> bool:
    if _MARK not in entry.name or _kept(entry) < _WORTH_KEEPING_BYTES:
        return False
    try:
        return time.time() - entry.stat().st_mtime < _KEPT_SECONDS
    except OSError:
        return False
