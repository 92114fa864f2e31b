"""Names held to one content: by a digest after the name, or by the `linnaeus.lock` beside a config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.errors import ConfigError, IdentifierError, PinMismatchError

LOCK_NAME = "linnaeus.lock"

_MARK = "@sha256:"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = 1
_HEAD = "# Written by: linnaeus lock. What each name stood for, and stands for as long as this stays.\n"


@dataclass(frozen=True, slots=True)
class Locked:
    """What a name resolved to: size, SHA-256 in hex, and where it came from."""

    size_bytes: int
    sha256: str
    source: str | None

    def to_plain(self) -> dict[str, Any]:
        """Return the form in which it stands in a lock file."""
        return {"size_bytes": self.size_bytes, "sha256": self.sha256, "source": self.source}


def split_pin(identifier: str) -> tuple[str, str | None]:
    """Return the name and the digest of `name@sha256:…`; None for a name without one.

    Raises:
        IdentifierError: What follows the mark is no SHA-256.
    """
    name, mark, digest = identifier.partition(_MARK)
    if not mark:
        return identifier, None
    if not _DIGEST.fullmatch(digest.lower()):
        reason = f"what follows {_MARK!r} is not the 64 hexadecimal digits of a SHA-256"
        raise IdentifierError(identifier=identifier, reason=reason)
    return name, digest.lower()


def read_lock(path: Path) -> dict[str, Locked]:
    """Return what a lock file says of each name.

    Raises:
        ConfigError: It can't be read, or is no lock file.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ValueError(f"it is of version {document['version']}")
        return {
            str(name): Locked(int(entry["size_bytes"]), str(entry["sha256"]), entry.get("source"))
            for name, entry in document["checkpoints"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        expected = f"is no lock file that can be read ({error}); write it again: linnaeus lock CONFIG"
        raise ConfigError(field="ENV.INPUT.LOCK", expected=expected, value=str(path)) from error


def lock_text(entries: Mapping[str, Locked]) -> str:
    """Return the text of a lock file."""
    import yaml

    checkpoints = {name: entries[name].to_plain() for name in sorted(entries)}
    text: str = yaml.safe_dump({"version": _VERSION, "checkpoints": checkpoints}, sort_keys=False)
    return f"{_HEAD}{text}"


def expected_of(name: str, pinned: str | None, lock: Path | None) -> str | None:
    """Return the SHA-256 that a name is held to, by its pin or by the lock file; None for neither.

    Raises:
        PinMismatchError: They differ.
        ConfigError: The lock file can't be read.
    """
    entry = read_lock(lock).get(name) if lock is not None else None
    if entry is None or pinned in (None, entry.sha256):
        return entry.sha256 if entry is not None else pinned
    raise PinMismatchError(
        path=f"{name} in {lock}",
        problem="it is locked to another content than it is pinned to",
        expected=str(pinned),
        found=entry.sha256,
        advice="Write the lock file again: linnaeus lock CONFIG",
    )


def mismatch(what: str, expected: str, found: str) -> PinMismatchError:
    """Return the error for content that is not the pinned one."""
    return PinMismatchError(
        path=what,
        problem="its content is not the pinned one",
        expected=expected,
        found=found,
        advice="Remove the file if it is the wrong one, or change the pin (linnaeus lock CONFIG).",
    )
