"""What is known of the checkpoints in the cache: their SHA-256, and where they came from.

A record holds for the file that it was made of, told by size, time and inode; for any other it says nothing.
That of a directory of shards holds for all of its files. Losing records costs only the time to read the
files again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError
from linnaeus.files import file_digest, make_directory, write_text

WORK_DIRECTORY = ".linnaeus"
_FOLDER = "records"


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """What is known of a checkpoint: its SHA-256 in hex, and the place it was fetched from, where it was."""

    sha256: str
    source: str | None = None


def record_of(path: Path) -> CacheRecord | None:
    """Return what is known of a file, or None when that is nothing."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        told = json.loads(_place(path).read_text(encoding="utf-8"))
        if told["file"] == _identity(path):
            return CacheRecord(str(told["sha256"]), told["source"])
    return None


def note(path: Path, sha256: str, source: str | None) -> None:
    """Keep what is known of a file; a cache that can't be written is no reason to fail."""
    told = {"file": _identity(path), "sha256": sha256, "source": source}
    with contextlib.suppress(OSError):
        make_directory(_place(path).parent)
        write_text(_place(path), json.dumps(told))


def sha256_of(path: Path) -> str:
    """Return a checkpoint's SHA-256, from its record or by reading it.

    That of a directory of shards is that of its commit file, which has the digest of every other file; these
    are compared.

    Raises:
        CheckpointInvalidError: It is a directory that is damaged, or that has no digest.
    """
    known = record_of(path)
    if known is not None:
        return known.sha256
    found = _of_directory(path) if path.is_dir() else file_digest(path, "sha256")
    if (path.parent / WORK_DIRECTORY).is_dir():  # a cache; other directories get nothing from us
        note(path, found, None)
    return found


def _of_directory(path: Path) -> str:
    pth.require_valid(path)
    found = pth.digest_of(path)
    if found is None:
        raise CheckpointInvalidError(
            path=str(path),
            problem="it is a directory without a commit file, so it has no digest to be known by",
            advice="Give it one: linnaeus convert DIR NAME.sharded",
        )
    return found


def forget_record(path: Path) -> None:
    """Drop what is known of a file that is removed."""
    with contextlib.suppress(OSError):
        _place(path).unlink()


def _place(path: Path) -> Path:
    key = hashlib.sha256(path.name.encode()).hexdigest()[:16]
    return path.parent / WORK_DIRECTORY / _FOLDER / f"{key}.json"


def _identity(path: Path) -> list[Any]:
    if path.is_dir():
        return [[entry.name, *_identity(entry)] for entry in sorted(path.iterdir()) if not entry.is_dir()]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
