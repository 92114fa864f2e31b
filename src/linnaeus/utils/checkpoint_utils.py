"""The documented doorway to the resolver: translate the arguments and call it."""

from __future__ import annotations

import os

from linnaeus.config import bucket_config_from, default_cache_dir
from linnaeus.errors import ConfigError
from linnaeus.resolving import resolve_in, text_of

__all__ = ["resolve_checkpoint_path"]


def resolve_checkpoint_path(
    identifier: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    bucket_config: object = None,
) -> str:
    """Return the path of the local file that an identifier names, fetching it if need be.

    Args:
        identifier: An absolute path, or a file name.
        cache_dir: The local cache; None or empty means the default one.
        bucket_config: Anything with the keys `ENABLED`, `NAME` and `PATH_PREFIX` (or, as older configs have
            it, `ENABLED`, `REMOTE` and `BUCKET`) as attributes or items. None means no bucket.

    Raises:
        IdentifierError: The identifier is neither.
        ConfigError: The directory or the bucket's configuration is none.
        CheckpointNotFoundError: It is nowhere; the error names every place looked at.
        RemoteError: The bucket refused or can't be reached.
        CheckpointInvalidError: What arrived is no whole, safe checkpoint.
    """
    directory = _directory(cache_dir)
    return resolve_in(text_of(identifier), os.path.expanduser(directory), bucket_config_from(bucket_config))


def _directory(cache_dir: object) -> str:
    if cache_dir is None or cache_dir == "":
        return str(default_cache_dir())
    if isinstance(cache_dir, (str, os.PathLike)):
        directory = os.fspath(cache_dir)
        if isinstance(directory, str):
            return directory
    raise ConfigError(
        field="cache_dir", expected=f"should be a directory's path, not a {type(cache_dir).__name__}"
    )
