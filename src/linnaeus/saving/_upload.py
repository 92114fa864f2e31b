"""Put a finished checkpoint into a bucket.

It is checked before anything is sent, verified there afterwards, and never replaces other content unasked.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.config import BucketConfig
from linnaeus.errors import CheckpointNotFoundError, IdentifierError, RemoteConflictError, RemoteError
from linnaeus.files import file_digest
from linnaeus.remote import Progress, Remote, RemoteFile, open_remote
from linnaeus.resolving import check_name, sharded_there
from linnaeus.saving._copies import same_description
from linnaeus.saving._send import send

_log = logging.getLogger(__name__)

# By it a name in a bucket tells what it is; a directory that linnaeus did not write has no digests to go by.
_WRONG_SUFFIX = (
    f"in a bucket directories of shards, and nothing else, end in {pth.SHARDED}:"
    f" linnaeus convert FILE NAME{pth.SHARDED} makes one of any checkpoint"
)


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What became of one upload.

    Attributes:
        name: The file's name in the bucket.
        place: The bucket, as messages call it.
        size_bytes: Of the file.
        verified_by: "sha1" or "md5" when the bucket's digest was compared; where it keeps none,
            "description" when size and what the file says of itself were, or "size" alone.
        was_there: Whether the same content stood there already, so that nothing was sent.
    """

    name: str
    place: str
    size_bytes: int
    verified_by: str
    was_there: bool

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "place": self.place,
            "size_bytes": self.size_bytes,
            "verified_by": self.verified_by,
            "was_there": self.was_there,
        }


def upload(
    path: Path, bucket: BucketConfig, *, force: bool = False, progress: Progress | None = None
) -> UploadReport:
    """Copy a checkpoint into a bucket under its file name.

    Args:
        path: The checkpoint; checked to its last byte before anything is sent.
        bucket: Where to, whether or not it is enabled for resolving.
        force: Replace other content that stands there under the same name.
        progress: Called now and then while it is sent.

    Raises:
        IdentifierError: No resolver would take the file's name, or its suffix says something else.
        CheckpointNotFoundError: There is no such file.
        CheckpointInvalidError: The file is no whole, safe checkpoint.
        RemoteConflictError: Other content stands there, and `force` was not given.
        RemoteNotFoundError: There is no such bucket.
        RemoteError: The bucket refused, can't be reached, or holds something else afterwards.
    """
    started = time.monotonic()
    name = check_name(path.name)
    if not path.exists() or (path.is_dir() and not pth.is_sharded(path)):
        raise CheckpointNotFoundError(identifier=str(path), places=["there is no such file"])
    if path.is_dir() != name.endswith(pth.SHARDED):
        raise IdentifierError(identifier=name, reason=_WRONG_SUFFIX)
    pth.require_valid(path)
    remote = open_remote(bucket)
    if path.is_dir():
        return _upload_sharded(path, remote, force=force, progress=progress)
    size_bytes = path.stat().st_size
    there = remote.stat(name, digests=True)
    if there is not None:
        same, verified_by = _compare(path, size_bytes, there)
        if same:
            return UploadReport(name, remote.place, size_bytes, verified_by, was_there=True)
        if not force:
            raise _conflict(remote, name, there, size_bytes, verified_by)
    remote.send(path, name, progress=progress)
    verified_by = _verify(remote, path, name, size_bytes)
    seconds = time.monotonic() - started
    _log.info(
        "uploaded %s to %s: %d bytes in %.1f s, %s compared",
        name,
        remote.place,
        size_bytes,
        seconds,
        verified_by,
    )
    return UploadReport(name, remote.place, size_bytes, verified_by, was_there=False)


def _upload_sharded(path: Path, remote: Remote, *, force: bool, progress: Progress | None) -> UploadReport:
    """Copy a directory of shards that linnaeus wrote, its commit file last."""
    commit, compared = (path / pth.COMMIT).read_bytes(), {"size"}

    def same(file: Path, known: RemoteFile) -> bool:
        for algorithm, digest in known.digests.items():
            compared.clear()
            compared.add(algorithm)
            return file_digest(file, algorithm) == digest
        return True

    with remote.session() as session:
        there = sharded_there(session, path.name)
        standing = b"" if there is None else session.read(f"{path.name}/{pth.COMMIT}", 0, len(commit))
        was_there = there is not None and standing == commit
        if there is not None and not was_there and not force:
            raise _conflict(remote, path.name, there, pth.size_of(path), "digests")
        if not was_there:
            send(remote, session, path, path.name, same, progress)
    return UploadReport(path.name, remote.place, pth.size_of(path), min(compared), was_there=was_there)


def _compare(path: Path, size_bytes: int, there: RemoteFile) -> tuple[bool, str]:
    """Return whether the content is proven the same, and by what."""
    if there.size_bytes != size_bytes:
        return False, "size"
    for algorithm, digest in there.digests.items():
        return file_digest(path, algorithm) == digest, algorithm
    return False, "nothing"


def _conflict(
    remote: Remote, name: str, there: RemoteFile, size_bytes: int, compared: str
) -> RemoteConflictError:
    differs = {
        "size": f"a file of {there.size_bytes:,} bytes stands there, this one has {size_bytes:,}",
        "nothing": "a file of the same size stands there, and the bucket keeps no digest to compare",
    }
    return RemoteConflictError(
        remote=remote.place,
        operation=f"upload of {name}",
        tail=differs.get(compared, f"other content of the same size stands there ({compared} differs)"),
        advice="Upload it under another name, or replace what is there with --force.",
    )


def _verify(remote: Remote, path: Path, name: str, size_bytes: int) -> str:
    there = remote.stat(name, digests=True)
    same, compared = (False, "presence") if there is None else _compare(path, size_bytes, there)
    if there is not None and compared == "nothing":
        if "linnaeus" not in pth.describe(path).written:
            return "size"
        with remote.session() as session:
            same, compared = same_description(session, path, there), "description"
    if not same:
        raise RemoteError(
            remote=remote.place,
            operation=f"upload of {name}",
            tail=f"what stands there afterwards differs ({compared})",
            advice="Upload it again with --force.",
        )
    return compared
