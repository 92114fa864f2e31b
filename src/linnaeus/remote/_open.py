"""From a bucket's configuration to the bucket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from linnaeus.config import BucketConfig, OutputBucketConfig, secrets_in_environment
from linnaeus.errors import ConfigError, RemoteAuthError
from linnaeus.remote._b2_bucket import B2Bucket
from linnaeus.remote._failures import Failures
from linnaeus.remote._program import current_environment
from linnaeus.remote._protocol import Remote
from linnaeus.remote._rclone import LOCAL_ROOT, Deadlines, RcloneRemote
from linnaeus.remote._retry import Retry

LOCAL = ":local:"
KEY_ID_VARIABLE = "B2_APPLICATION_KEY_ID"
KEY_VARIABLE = "B2_APPLICATION_KEY"

_B2_REMOTE = "linnaeus"
_WEB_REMOTE = "linnaeusweb"
_REMOTE_NAME = re.compile(r"^[\w.+@][\w.+@ -]*:?$")


def open_in_background(bucket: OutputBucketConfig) -> Remote:
    """Return the bucket that a run is copied to: slowly enough, and after all other work.

    Raises:
        RemoteAuthError: As `open_remote`.
        ConfigError: As `open_remote`.
    """
    limit = bucket.MAX_MEGABYTES_PER_SECOND
    return replace(_open(bucket), in_background=True, megabytes_per_second=limit)


def open_remote(bucket: BucketConfig) -> Remote:
    """Return the bucket that a configuration names. Nothing is started or contacted yet.

    Raises:
        RemoteAuthError: It is on Backblaze B2 and the environment has no credentials for it.
        ConfigError: `REMOTE` is neither a remote's name nor ":local:".
    """
    return _open(bucket)


def _open(bucket: BucketConfig) -> RcloneRemote:
    path = f"{bucket.NAME}/{bucket.PATH_PREFIX}"
    under = f" under {bucket.PATH_PREFIX}" if bucket.PATH_PREFIX else ""
    if bucket.REMOTE == LOCAL:
        directory = Path(path).expanduser().absolute()
        folder = Path(bucket.NAME).expanduser().absolute()
        return _remote(bucket, f"directory {directory}", f"{LOCAL_ROOT}{folder}")
    if bucket.REMOTE:
        if not _REMOTE_NAME.match(bucket.REMOTE):
            raise ConfigError(
                field="BUCKET.REMOTE",
                expected='must name a remote of rclone.conf, or be ":local:"',
                value=bucket.REMOTE.split(",")[0],
            )
        name = bucket.REMOTE.rstrip(":")
        return _remote(
            bucket,
            f"bucket {name}:{bucket.NAME}{under}",
            f"{name}:{bucket.NAME}",
            uses_config_file=True,
        )
    place = f"bucket {bucket.NAME}{under}"
    settings = _b2_settings(bucket, place)
    opened = _remote(bucket, place, f"{_B2_REMOTE}:{bucket.NAME}", settings=settings)
    return replace(opened, keeps_versions=True, b2=_b2_bucket(bucket, opened))


def open_website(folder: str, bucket: BucketConfig) -> Remote:
    """Return a folder of a web server, to fetch from; nothing is contacted yet.

    Args:
        folder: Its URL, without credentials, ending in a slash.
        bucket: How patiently to transfer.
    """
    prefix = f"RCLONE_CONFIG_{_WEB_REMOTE.upper()}_"
    settings = {f"{prefix}TYPE": "http", f"{prefix}URL": folder}
    patience = bucket.model_copy(update={"PATH_PREFIX": ""})
    return _remote(patience, folder, f"{_WEB_REMOTE}:", settings=settings)


def _remote(
    bucket: BucketConfig,
    place: str,
    bucket_root: str,
    *,
    settings: Mapping[str, str] | None = None,
    uses_config_file: bool = False,
) -> RcloneRemote:
    settings = settings or {}
    secrets = [value for key, value in settings.items() if key.endswith(("_ACCOUNT", "_KEY"))]
    return RcloneRemote(
        place=place,
        bucket_root=bucket_root,
        prefix=bucket.PATH_PREFIX,
        num_streams=bucket.STREAMS,
        deadlines=Deadlines(
            connect=bucket.CONNECT_TIMEOUT_SECONDS,
            idle=bucket.IDLE_TIMEOUT_SECONDS,
            total=bucket.TOTAL_TIMEOUT_SECONDS,
        ),
        retry=Retry(attempts=max(1, bucket.RETRIES)),
        settings=settings,
        secrets=[*secrets, *secrets_in_environment()],
        uses_config_file=uses_config_file,
    )


def _b2_bucket(bucket: BucketConfig, opened: RcloneRemote) -> B2Bucket:
    prefix = f"RCLONE_CONFIG_{_B2_REMOTE.upper()}_"
    return B2Bucket(
        key_id=opened.settings[f"{prefix}ACCOUNT"],
        key=opened.settings[f"{prefix}KEY"],
        endpoint=bucket.ENDPOINT,
        bucket=bucket.NAME,
        prefix=bucket.PATH_PREFIX,
        seconds=bucket.CONNECT_TIMEOUT_SECONDS + bucket.IDLE_TIMEOUT_SECONDS,
        retry=opened.retry,
        failures=Failures(opened.place, opened.secrets),
    )


def _b2_settings(bucket: BucketConfig, place: str) -> dict[str, str]:
    environment = current_environment()
    key_id = bucket.APP_KEY_ID.get_secret_value() if bucket.APP_KEY_ID else environment.get(KEY_ID_VARIABLE)
    key = bucket.APP_KEY.get_secret_value() if bucket.APP_KEY else environment.get(KEY_VARIABLE)
    missing = [name for name, value in ((KEY_ID_VARIABLE, key_id), (KEY_VARIABLE, key)) if not value]
    if not key_id or not key:
        raise RemoteAuthError(
            remote=place,
            operation="signing in to Backblaze B2",
            attempts=0,
            tail=f"{' and '.join(missing)} not set",
            advice="Export the two parts of an application key of that bucket,"
            " or name a remote of your rclone.conf in the bucket's REMOTE.",
        )
    prefix = f"RCLONE_CONFIG_{_B2_REMOTE.upper()}_"
    settings = {f"{prefix}TYPE": "b2", f"{prefix}ACCOUNT": key_id, f"{prefix}KEY": key}
    if bucket.ENDPOINT:
        settings[f"{prefix}ENDPOINT"] = bucket.ENDPOINT
    return settings
