"""What a checkpoint holds, told without fetching it: some kilobytes of its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.resolving._identifier import check_name, is_absolute
from linnaeus.resolving._pins import split_pin
from linnaeus.resolving._resolve import resolve

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
    if not is_only_there(identifier, cfg):
        return pth.describe(resolve(identifier, cfg))
    name, _ = split_pin(identifier)
    with open_remote(place.BUCKET).session() as session:
        known = sharded_there(session, name) or session.stat(name)
        if known is None:
            raise CheckpointNotFoundError(identifier=name, places=[f"not in {session.place}"])
        return describe_there(session, name, known.size_bytes)


def is_only_there(identifier: str, cfg: Config) -> bool:
    """Tell whether a checkpoint, if there is one, is in the bucket alone, where it can be looked into.

    Raises:
        IdentifierError: The identifier names nothing.
    """
    place = cfg.ENV.INPUT
    if is_absolute(identifier) or "://" in identifier or place.OFFLINE or not place.BUCKET.ENABLED:
        return False
    name, _ = split_pin(identifier)
    return not Path(place.CACHE_DIR, check_name(name)).exists()


def describe_there(session: Session, name: str, size_bytes: int) -> Description:
    """Return what a file of a bucket holds, from a few ranges of it.

    What seems damaged is read again: damage on the way must not count as damage in the bucket.

    Raises:
        CheckpointInvalidError: It is no checkpoint, or visibly damaged.
        RemoteError: The bucket refused or can't be reached.
    """
    from linnaeus import pth

    if name.endswith(pth.SHARDED):
        return _sharded(session, name)

    def read(start: int, length: int) -> bytes:
        return session.read(name, start, length)

    try:
        return pth.glance(name, size_bytes, read)
    except CorruptCheckpointError:
        return pth.glance(name, size_bytes, read)


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
        RemoteNotFoundError: There is no such bucket.
    """
    from linnaeus import pth

    files, folders = session.files_and_folders()
    found = [sharded_there(session, name) for name in folders if name.endswith(pth.SHARDED)]
    return files + [one for one in found if one is not None]


def _sharded(session: Session, name: str) -> Description:
    """Return what a folder of a bucket holds, from its commit file and its listing."""
    from linnaeus import pth
    from linnaeus.resolving._sharded_there import about_sharded, sizes_there

    sizes = sizes_there(session, name)
    return about_sharded(session, name, sizes, lambda data: pth.glance_sharded(name, data, sizes))
