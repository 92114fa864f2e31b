"""Configurations of the buckets that tests use: quick to fail, otherwise as a user writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linnaeus.config import BucketConfig

from .b2_server import B2Server

BUCKET = "linnaeus-checkpoints"
PREFIX = "modelZoo/"

_QUICK = {
    "ENABLED": True,
    "RETRIES": 1,
    "CONNECT_TIMEOUT_SECONDS": 2.0,
    "IDLE_TIMEOUT_SECONDS": 5.0,
    "PATH_PREFIX": PREFIX,
}


def b2_bucket(server: B2Server, **changes: Any) -> BucketConfig:
    """Return the configuration of a bucket on the test server."""
    return BucketConfig(**(_QUICK | {"NAME": BUCKET, "ENDPOINT": server.endpoint} | changes))


def directory_bucket(directory: Path, **changes: Any) -> BucketConfig:
    """Return the configuration of a directory that serves as a bucket, through rclone."""
    return BucketConfig(**(_QUICK | {"NAME": str(directory), "REMOTE": ":local:"} | changes))


def remote_bucket(remote: str, **changes: Any) -> BucketConfig:
    """Return the configuration of a bucket on a remote of rclone.conf."""
    return BucketConfig(**(_QUICK | {"NAME": BUCKET, "REMOTE": remote} | changes))
