"""What a checkpoint holds, told without fetching it: some kilobytes of its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointNotFoundError
from linnaeus.resolving._identifier import is_absolute
from linnaeus.resolving._resolve import resolve_in

if TYPE_CHECKING:
    from linnaeus.config import Config
    from linnaeus.pth import Description
    from linnaeus.remote import Session


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
        known = session.stat(identifier)
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

    return pth.glance(name, size_bytes, lambda start, length: session.read(name, start, length))
