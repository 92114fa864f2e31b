"""The resolution process: absolute path, cache, bucket, error."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.errors import CheckpointInvalidError, CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.resolving._identifier import check_name, check_path, is_absolute
from linnaeus.resolving._places import describe_cache, nearest_in

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig, Config
    from linnaeus.remote import Progress


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
        resolve_in(os.fspath(identifier), os.fspath(place.CACHE_DIR), place.BUCKET, progress=progress)
    )


def resolve_in(
    identifier: str, cache_dir: str, bucket: BucketConfig, *, progress: Progress | None = None
) -> str:
    """Do what `resolve` does, for a cache directory and a bucket given apart."""
    if is_absolute(identifier):
        return _existing(check_path(identifier))
    name = check_name(identifier)
    # A hit must stay cheap: one stat, no lock, no process, no import.
    hit = os.path.join(cache_dir, name)
    if _is_checkpoint_file(hit):
        return hit
    if not bucket.ENABLED:
        raise _not_in_cache(name, cache_dir)
    from linnaeus.resolving._fetch import fetch

    return str(fetch(name, Path(cache_dir), bucket, progress=progress))


def _is_checkpoint_file(path: str) -> bool:
    """Tell whether there is a file.

    What can't be used as one is an error, since fetching would not mend it.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # what is fetched would not replace it
            raise CheckpointInvalidError(path=path, problem="it is a symbolic link to nothing") from None
        return False
    except OSError as error:
        raise CheckpointInvalidError(
            path=path, problem=f"it can't be looked at ({error.strerror})"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointInvalidError(path=path, problem="it is not a file")
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


def _not_in_cache(name: str, cache_dir: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        identifier=name,
        places=[describe_cache(cache_dir), "the bucket is disabled (ENV.INPUT.BUCKET.ENABLED is false)"],
        nearest=nearest_in(name, cache_dir),
        advice="List what there is: linnaeus ls",
    )
