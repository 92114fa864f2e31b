"""What arrived from elsewhere is checked to its last byte, and only then appears under its name.

A bucket without digests passes a damaged body, and anybody may upload anything.
"""

from __future__ import annotations

from pathlib import Path

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError
from linnaeus.files import publish_new, publish_new_directory
from linnaeus.resolving._pins import mismatch

_UPLOAD_ADVICE = "Upload a good copy: linnaeus upload --force FILE"


def admit(arrived: Path, final: Path, what: str, *, sha256: str | None, expected: str | None) -> None:
    """Check a file that arrived, and publish it.

    Args:
        arrived: The file.
        final: Where it goes, unless a file stands there meanwhile.
        what: What to call it in messages.
        sha256: Of the file, where it is known.
        expected: The SHA-256 that it must have.

    Raises:
        PinMismatchError: It has another one.
        CheckpointInvalidError: It is no whole, safe checkpoint.
    """
    _require(arrived, what, sha256, expected)
    publish_new(arrived, final)


def admit_directory(arrived: Path, final: Path, what: str, *, expected: str | None) -> str | None:
    """Check a directory that arrived, and publish it.

    Args:
        arrived: The directory, its files on disk.
        final: Where it goes, unless something stands there meanwhile.
        what: What to call it in messages.
        expected: The SHA-256 that its commit file must have.

    Returns:
        That one's SHA-256; None for a directory without.

    Raises:
        PinMismatchError: It has another one.
        CheckpointInvalidError: It is no whole, safe checkpoint.
    """
    sha256 = pth.digest_of(arrived)
    _require(arrived, what, sha256, expected)
    publish_new_directory(arrived, final)
    return sha256


def _require(arrived: Path, what: str, sha256: str | None, expected: str | None) -> None:
    if expected is not None and sha256 != expected:
        raise mismatch(what, expected, str(sha256))
    try:
        pth.require_valid(arrived)
    except CheckpointInvalidError as error:
        raise refused(error, what) from error


def refused(error: CheckpointInvalidError, what: str) -> CheckpointInvalidError:
    """Return an error of what arrived, or is elsewhere, under a name that tells so."""
    advice = f"It was not put into the cache. {error.advice or _UPLOAD_ADVICE}"
    return type(error)(**(error.fields() | {"path": what, "advice": advice}))
