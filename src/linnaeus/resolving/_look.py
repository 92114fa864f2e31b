"""What a checkpoint holds, told without fetching it: some kilobytes of its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointNotFoundError
from linnaeus.resolving._identifier import is_absolute
from linnaeus.resolving._resolve import resolve_in

if TYPE_CHECKING:
    from linnaeus.config import Config
    from linnaeus.pth import Description
    from linnaeus.remote import RemoteFile, Session


def describe(identifier: str, cfg: Config) -> Description:
    """Return what the checkpoint holds that an identifier names, without fetching it.

    What is here, is read here; of what is in the bucket only its directory of records and its description
    are read, or its pickle where it has none. That proves nothing of the rest.

    Raises:
        LinnaeusError: As for `resolve`.
    """
    from linnaeus import pth  # here and below, so that a cache hit loads none of it
    from linnaeus.remote import open_remote

    place = cfg.ENV.INPUT
    cache_dir, bucket = str(place.CACHE_DIR), place.BUCKET
    if is_absolute(identifier) or Path(cache_dir, identifier).exists() or not bucket.ENABLED:
        return pth.describe(resolve_in(identifier, cache_dir, bucket))
    with open_remote(bucket).session() as session:
        known = sharded_there(session, identifier) or session.stat(identifier)
        if known is None:
            raise CheckpointNotFoundError(identifier=identifier, places=[f"not in {session.place}"])
        return describe_there(session, identifier, known.size_bytes)


def describe_there(session: Session, name: str, size_bytes: int) -> Description:
    """Return what a file of a bucket holds, from a few ranges of it.

    Raises:
        CheckpointInvalidError: It is no checkpoint, or visibly damaged.
        RemoteError: The bucket refused or can't be reached.
    """
    from linnaeus import pth

    if name.endswith(pth.SHARDED):
        return _sharded(session, name)
    return pth.glance(name, size_bytes, lambda start, length: session.read(name, start, length))


def sharded_there(session: Session, name: str) -> RemoteFile | None:
    """Return a directory of shards in a bucket as if it were one file; None for one that was not finished.

    Its version is that of its commit file.
    """
    from linnaeus import pth

    files = session.folder(name) if name.endswith(pth.SHARDED) else []
    commit = next((file for file in files if file.name == f"{name}/{pth.COMMIT}"), None)
    if commit is None:
        return None
    return replace(commit, name=name, size_bytes=sum(file.size_bytes for file in files), digests={})


def all_there(session: Session) -> list[RemoteFile]:
    """Return all files of a place in a bucket, and all directories of shards as if they were files.

    Raises:
        RemoteNotFoundError: There is no such place.
    """
    from linnaeus import pth

    files, folders = session.files_and_folders()
    found = [sharded_there(session, name) for name in folders if name.endswith(pth.SHARDED)]
    return files + [one for one in found if one is not None]


def _sharded(session: Session, name: str) -> Description:
    """Return what a folder of a bucket holds, from its commit file and its listing."""
    from linnaeus import pth
    from linnaeus.errors import CorruptCheckpointError

    sizes = {file.name.rpartition("/")[2]: file.size_bytes for file in session.folder(name)}
    if pth.COMMIT not in sizes:
        raise CorruptCheckpointError(
            path=name, problem=f"it has no {pth.COMMIT}, so it was never finished", record=pth.COMMIT
        )
    data = session.read(f"{name}/{pth.COMMIT}", 0, sizes[pth.COMMIT])
    return pth.glance_sharded(name, data, sizes)
