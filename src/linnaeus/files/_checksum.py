"""Digests of whole files, read in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hex digest of a file's bytes.

    Args:
        path: The file to read.
        algorithm: A name that hashlib knows, for example "sha1" or "md5".

    Raises:
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        # Not for security: the digest is compared with what a bucket says it stored.
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
