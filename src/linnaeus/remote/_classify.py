"""What a failed rclone command means.

rclone's exit status tells little: 3 and 4 are "not there", most of the rest is 1. The last message
tells the rest. The patterns were read off rclone 1.75 against real failures; each stands in the tests.
"""

from __future__ import annotations

import re
from enum import Enum


class Failure(Enum):
    """Why a command failed."""

    MISSING_FILE = "missing file"
    MISSING_BUCKET = "missing bucket"
    REFUSED = "refused"
    UNKNOWN_REMOTE = "unknown remote"
    NO_SPACE = "no space"
    NOT_WRITABLE = "not writable"
    DAMAGED = "damaged"
    TOO_SLOW = "too slow"
    UNREACHABLE = "unreachable"


# Statuses that say enough by themselves: directory or bucket not found, object not found, 403.
_BY_STATUS = {
    3: Failure.MISSING_BUCKET,
    4: Failure.MISSING_FILE,
    7: Failure.REFUSED,
}

_NETWORK_STATUS = 5
_TIMEOUT = re.compile(r"i/o timeout|timeout awaiting|TLS handshake timeout|Client\.Timeout")

# In this order: the first that matches decides.
_PATTERNS: tuple[tuple[Failure, str], ...] = (
    (
        Failure.NO_SPACE,
        r"no space left on device|disk quota exceeded|file too (large|big)",
    ),
    (Failure.DAMAGED, r"corrupted on transfer|sha1 did not match"),
    (Failure.UNREACHABLE, r"(expired|bad)_auth_token"),  # the next attempt signs in anew
    (
        Failure.REFUSED,
        r"\((401|403) \w+\)|unauthori[sz]ed|access.?denied|forbidden|cap.exceeded"
        r"|you must use bucket|InvalidAccessKeyId|SignatureDoesNotMatch|StatusCode: 40[13]",
    ),
    (Failure.UNKNOWN_REMOTE, r"didn't find section in config file|didn't find backend"),
    (
        Failure.MISSING_BUCKET,
        r"bucket (name )?not found|no such bucket|directory not found|NoSuchBucket|bad_bucket_id",
    ),
    (Failure.MISSING_FILE, r"object not found|NoSuchKey"),
    (
        Failure.NOT_WRITABLE,
        r"^(open|mkdir|rename|create|is a file) .*|permission denied|read-only file system|not a directory",
    ),
)


def classify(status: int, text: str) -> Failure:
    """Return what an exit status and the last message of rclone mean.

    What is unknown counts as unreachable.
    """
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == _NETWORK_STATUS:
        return Failure.TOO_SLOW if _TIMEOUT.search(text) else Failure.UNREACHABLE
    for failure, pattern in _PATTERNS:
        if re.search(pattern, text, re.IGNORECASE):
            return failure
    return Failure.TOO_SLOW if _TIMEOUT.search(text) else Failure.UNREACHABLE


_NOISE = re.compile(r"^(Failed to \S+( with \d+ errors: last error was)?: )?(loopback: call failed: )?")


def last_words(messages: list[str]) -> str:
    """Return the end of what rclone said, without its prefixes and repetitions, in at most 300 characters.

    The messages must be free of secrets already: one that is cut here in two would be recognised no more.
    """
    meaningful = [_NOISE.sub("", message) for message in messages if message]
    return meaningful[-1][:300].rstrip(". ") if meaningful else ""
