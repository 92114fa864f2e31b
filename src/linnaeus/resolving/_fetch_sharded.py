"""Bring a directory of shards from a bucket: all of its files, verified together, under their name at once.

Invariant: as for one file, the name appears only when everything is there, whole and on disk. Until then the
files lie in a temporary directory, which is swept when this process dies.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InsufficientSpaceError,
    SaveError,
)
from linnaeus.files import (
    commit,
    file_digest,
    fsync_file,
    is_out_of_space,
    make_directory,
    publish_new_directory,
    remove,
    require_space,
    sweep_abandoned,
    temporary_name,
)
from linnaeus.resolving._pins import mismatch

if TYPE_CHECKING:
    from linnaeus.remote import Progress, Remote, RemoteFile

_log = logging.getLogger(__name__)


def fetch_sharded(remote: Remote, name: str, final: Path, *, progress: Progress | None = None) -> Path:
    """Fetch a directory of shards, unless it is here by now.

    Args:
        remote: Where it is.
        name: Its name there.
        final: The directory here; what it is in is made if need be.
        progress: Called now and then, for each file.

    Raises:
        CheckpointNotFoundError: There is no finished directory of that name.
        CheckpointInvalidError: What arrived is no whole checkpoint.
        RemoteError: The bucket refused or can't be reached.
        SaveError: It can't be written here.
    """
    if pth.is_sharded(final):
        return final
    with remote.session() as session:
        files = session.folder(name)
    if f"{name}/{pth.COMMIT}" not in {file.name for file in files}:
        raise CheckpointNotFoundError(
            identifier=name,
            places=[f"not in {remote.place}" if not files else f"never finished in {remote.place}"],
        )
    temporary, started = temporary_name(final), time.monotonic()
    try:
        make_directory(final.parent)
        sweep_abandoned(final.parent)
        require_space(final, sum(file.size_bytes for file in files))
        temporary.mkdir()
        _bring(remote, files, temporary, progress)
        admit_directory(temporary, final, f"{name} as it arrived from {remote.place}", expected=None)
    except OSError as error:
        raise _not_written(final, error) from error
    finally:
        remove(temporary)
    num_bytes = sum(file.size_bytes for file in files)
    _log.info(
        "fetched %s from %s: %d bytes in %.1f s", name, remote.place, num_bytes, time.monotonic() - started
    )
    return final


def complete_sharded(remote: Remote, name: str, final: Path, *, progress: Progress | None = None) -> bool:
    """Fetch what a part of a checkpoint lacks, if the bucket has the same checkpoint; then check all of it.

    Args:
        remote: Where it is.
        name: Its name there.
        final: The part.
        progress: Called now and then, for each file.

    Returns:
        False where this can't be: there is another one of that name, or what is here is damaged.

    Raises:
        CheckpointInvalidError: What arrived is damaged.
        RemoteError: The bucket refused or can't be reached.
        SaveError: It can't be written here.
    """
    ours = (final / pth.COMMIT).read_bytes()
    with remote.session() as session:
        there = session.stat(f"{name}/{pth.COMMIT}")
        if there is None or session.read(there.name, 0, there.size_bytes) != ours:
            return False
    sums = pth.files_told_of(final)
    missing = [one for one in sums if not (final / one).exists()]
    try:
        sweep_abandoned(final)
        require_space(final, sum(sums[one].size_bytes for one in missing))
        for one in missing:
            _bring_one(remote, f"{name}/{one}", final / one, sums[one].sha256, progress)
    except OSError as error:
        raise _not_written(final, error) from error
    return pth.verify(final).ok


def _bring_one(remote: Remote, name: str, final: Path, sha256: str, progress: Progress | None) -> None:
    arriving = temporary_name(final)
    try:
        remote.fetch(name, arriving, progress=progress)
        if file_digest(arriving, "sha256") != sha256:
            raise CorruptCheckpointError(
                path=f"{name} as it arrived from {remote.place}",
                problem="its SHA-256 is not what the commit file says",
            )
        commit(arriving, final)
    finally:
        remove(arriving)


def _not_written(path: Path, error: OSError) -> SaveError:
    if is_out_of_space(error):
        return InsufficientSpaceError(path=str(path), problem="the disk is full")
    return SaveError(path=str(path), problem=error.strerror or str(error))


def _bring(remote: Remote, files: list[RemoteFile], into: Path, progress: Progress | None) -> None:
    for file in files:
        here = into / file.name.rpartition("/")[2]
        remote.fetch(file.name, here, progress=progress)
        fsync_file(here)


def admit_directory(arrived: Path, final: Path, what: str, *, expected: str | None) -> str | None:
    """Check every byte of what arrived, since a bucket without digests passes a damaged body; and publish it.

    Args:
        arrived: The directory, its files on disk.
        final: Where it goes, unless something stands there meanwhile.
        what: What to call it in messages.
        expected: The SHA-256 that its commit file must have.

    Returns:
        That one's SHA-256; None for a directory without.

    Raises:
        PinMismatchError: It has another one.
        CheckpointInvalidError: It is no whole, safe checkpoint.
    """
    has_one = (arrived / pth.COMMIT).is_file()
    found = file_digest(arrived / pth.COMMIT, "sha256") if has_one else None
    if expected is not None and found != expected:
        raise mismatch(what, expected, str(found))
    try:
        pth.require_valid(arrived)
    except CheckpointInvalidError as error:
        raise type(error)(**(error.fields() | {"path": what})) from error
    publish_new_directory(arrived, final)
    return found
