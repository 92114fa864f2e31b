"""Directories of shards in a bucket, told from their listing and their commit file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from linnaeus import pth
from linnaeus.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from linnaeus.remote import Session

_T = TypeVar("_T")


def sizes_there(session: Session, name: str) -> dict[str, int]:
    """Return the sizes of the files in a folder of a bucket; none where there is none."""
    return {file.name.rpartition("/")[2]: file.size_bytes for file in session.folder(name)}


def about_sharded(
    session: Session, name: str, sizes: Mapping[str, int], understand: Callable[[bytes], _T]
) -> _T:
    """Return what is made of the commit file of a directory in a bucket.

    Args:
        session: The place.
        name: The directory.
        sizes: Of its files.
        understand: Makes something of the commit file's bytes. What it finds damaged is read again: damage on
            the way must not count as damage in the bucket.

    Raises:
        CheckpointInvalidError: There is no commit file, or `understand` refused it.
        RemoteError: The bucket refused or can't be reached.
    """
    if pth.COMMIT not in sizes:
        raise CorruptCheckpointError(
            path=name, problem=f"it has no {pth.COMMIT}, so it was never finished", record=pth.COMMIT
        )

    def read() -> bytes:
        return session.read(f"{name}/{pth.COMMIT}", 0, sizes[pth.COMMIT])

    try:
        return understand(read())
    except CorruptCheckpointError:
        return understand(read())
