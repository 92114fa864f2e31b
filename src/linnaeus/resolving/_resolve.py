"""The resolution process: absolute path, cache, bucket, error."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointInvalidError, CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.resolving._identifier import check_name, check_path, is_absolute, text_of
from linnaeus.resolving._places import describe_cache, nearest_in

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig, Config
    from linnaeus.remote import Progress

_DISABLED = "the bucket is disabled (ENV.INPUT.BUCKET.ENABLED is false)"
_METADATA = ".metadata"  # what torch.distributed.checkpoint puts into a directory of shards
_OFFLINE = "nobody else was asked (ENV.INPUT.OFFLINE is true)"


def resolve(identifier: str | os.PathLike[str], cfg: Config, *, progress: Progress | None = None) -> Path:
    """Return the local file that an identifier names, fetching it from the bucket if need be.

    Args:
        identifier: An absolute path, or a file name as it stands in the cache and the bucket.
        cfg: The configuration; `ENV.INPUT` says where to look.
        progress: Called now and then while a file is fetched.

    Raises:
        IdentifierError: The identifier is neither.
        CheckpointNotFoundError: It is nowhere; the error names every place looked at.
        RemoteError: The bucket refused or can't be reached (see its subclasses).
        CheckpointInvalidError: What the bucket holds under that name is no whole, safe checkpoint.
        InsufficientSpaceError: There is no room for it in the cache.
        SaveError: The cache can't be written.
    """
    place = cfg.ENV.INPUT
    return Path(
        resolve_in(
            text_of(identifier),
            os.fspath(place.CACHE_DIR),
            place.BUCKET,
            progress=progress,
            offline=place.OFFLINE,
            lock=place.LOCK,
        )
    )


def resolve_in(
    identifier: str,
    cache_dir: str,
    bucket: BucketConfig,
    *,
    progress: Progress | None = None,
    offline: bool = False,
    lock: Path | None = None,
) -> str:
    """Do what `resolve` does, for a cache directory and a bucket given apart.

    Args:
        identifier: An absolute path, a file name, or a URL of another home; `@sha256:…` may follow.
        cache_dir: The cache.
        bucket: Where to fetch from.
        progress: Called now and then while a file is fetched.
        offline: Whether to ask nobody, and make do with what is here.
        lock: A lock file that names are held to.
    """
    if "://" in identifier:
        from linnaeus.resolving._elsewhere import resolve_url

        return resolve_url(identifier, cache_dir, bucket, progress=progress, offline=offline, lock=lock)
    if lock is None and "@sha256:" not in identifier:
        return _resolved(identifier, cache_dir, bucket, None, progress, offline)
    from linnaeus.resolving._pins import expected_of, mismatch, split_pin

    name, pinned = split_pin(identifier)
    expected = expected_of(name, pinned, lock)
    path = _resolved(name, cache_dir, bucket, expected, progress, offline)
    if expected is not None:
        from linnaeus.resolving._records import sha256_of

        found = sha256_of(Path(path))
        if found != expected:
            raise mismatch(path, expected, found)
    return path


def _resolved(
    identifier: str,
    cache_dir: str,
    bucket: BucketConfig,
    expected: str | None,
    progress: Progress | None,
    offline: bool,  # noqa: FBT001 - handed on
) -> str:
    if is_absolute(identifier):
        return _existing(check_path(identifier))
    name = check_name(identifier)
    # A hit must stay cheap: one stat, no lock, no process, no import.
    hit = os.path.join(cache_dir, name)
    if _is_checkpoint_file(hit):
        return hit
    if offline or not bucket.ENABLED:
        raise _not_in_cache(name, cache_dir, _OFFLINE if offline else _DISABLED)
    from linnaeus.resolving._fetch import fetch

    return str(fetch(name, Path(cache_dir), bucket, progress=progress, expected=expected))


def _is_checkpoint_file(path: str) -> bool:
    """Tell whether there is a file, or a directory of shards.

    What can't be used as one is an error, since fetching would not mend it.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # what is fetched would not replace it
            raise CheckpointInvalidError(
                path=path,
                problem="it is a symbolic link to nothing",
                advice="Remove the link, and the name is fetched; or bring back what it points to.",
            ) from None
        return False
    except OSError as error:
        raise CheckpointInvalidError(
            path=path, problem=f"it can't be looked at ({error.strerror})"
        ) from error
    if stat.S_ISDIR(status.st_mode) and os.path.isfile(os.path.join(path, _METADATA)):
        return True
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointInvalidError(
            path=path,
            problem="it is a directory, and no checkpoint"
            if stat.S_ISDIR(status.st_mode)
            else "it is not a file",
            advice="Move it away, and the name is free.",
        )
    if status.st_size == 0:
        raise CorruptCheckpointError(path=path, problem="it is empty", advice="Delete it and try again.")
    return True


def _existing(path: str) -> str:
    if _is_checkpoint_file(path):
        return path
    directory = os.path.dirname(path)
    raise CheckpointNotFoundError(
        identifier=path,
        places=["there is no such file"],
        nearest=[os.path.join(directory, name) for name in nearest_in(os.path.basename(path), directory)],
    )


def _not_in_cache(name: str, cache_dir: str, why_no_further: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        identifier=name,
        places=[describe_cache(cache_dir), why_no_further],
        nearest=nearest_in(name, cache_dir),
        advice="List what there is: linnaeus ls",
    )
