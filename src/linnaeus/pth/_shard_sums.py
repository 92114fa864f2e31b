"""What the files of a directory of shards must be, as its commit file tells: for copying and comparing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from linnaeus.files import file_digest
from linnaeus.pth._archive import not_readable
from linnaeus.pth._commit_file import (
    COMMIT,
    SHARDED,
    FileSum,
    check_sizes,
    commit_there,
    damaged,
    read_commit,
)
from linnaeus.pth._dcp_metadata import METADATA


def files_told_of(path: Path) -> dict[str, FileSum]:
    """Return what the files of a directory of ours must be, also those that are with other nodes.

    They are in the order in which to copy them: what tells of all others comes last, the commit file at the
    very end.

    Raises:
        CheckpointInvalidError: It has no good commit file.
    """
    commit = read_commit(path)
    if commit is None:
        raise damaged(path, COMMIT, "it was never finished")
    return _in_order(commit.files, _sum_of(path / COMMIT))


def _in_order(files: Mapping[str, FileSum], commit: FileSum) -> dict[str, FileSum]:
    shards = {name: files[name] for name in sorted(files) if name != METADATA}
    return shards | ({METADATA: files[METADATA]} if METADATA in files else {}) | {COMMIT: commit}


def sums_of(path: Path, names: Collection[str] | None = None) -> dict[str, FileSum]:
    """Return what the files of a directory must be, in the order in which to copy them.

    The commit file tells it, and comes last. Of a directory without one the files are read, and `.metadata`
    comes last.

    Args:
        path: The directory.
        names: Which of its files; None for all. Of others it does not matter whether they are there.

    Raises:
        CheckpointInvalidError: One is not there or cut short, or the commit file does not tell of it.
    """
    if not (path / COMMIT).exists() and path.suffix != SHARDED:
        found = names if names is not None else {one.name for one in path.iterdir() if one.is_file()}
        return {
            name: _sum_of(path / name) for name in sorted(found, key=lambda name: (name == METADATA, name))
        }
    told = files_told_of(path)
    for name in names if names is not None else ():
        if name not in told:
            raise damaged(path, name, f"its commit file tells of no {name}")
    sums = {name: one for name, one in told.items() if names is None or name in names}
    check_sizes(path, sums)
    return sums


def _sum_of(file: Path) -> FileSum:
    try:
        return FileSum(file.stat().st_size, file_digest(file, "sha256"))
    except OSError as error:
        raise not_readable(file, error) from error


def sums_there(name: str, data: bytes, sizes: Mapping[str, int]) -> dict[str, FileSum]:
    """Return what the files of a directory that is elsewhere must be, the commit file last.

    Args:
        name: What to call it.
        data: The bytes of its commit file.
        sizes: Of all files that are there, by name.

    Raises:
        CheckpointInvalidError: As `glance_sharded`.
    """
    files = commit_there(Path(name), data, sizes).files
    own = FileSum(len(data), hashlib.sha256(data).hexdigest())
    return _in_order(files, own)


def digest_of(path: Path) -> str | None:
    """Return the SHA-256 of a checkpoint: of a directory that of its commit file, which has all others.

    A directory that linnaeus did not write has none.

    Raises:
        CheckpointInvalidError: It can't be read.
    """
    file = path / COMMIT if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        return None
    return _sum_of(file).sha256
