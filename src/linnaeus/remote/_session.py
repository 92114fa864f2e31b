"""A bucket through an rclone that stays: ranges of objects, and many small acts for one sign-in."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from linnaeus.errors import LinnaeusError, RemoteError, RemoteTimeoutError
from linnaeus.remote._daemon import Daemon
from linnaeus.remote._failures import Failures
from linnaeus.remote._protocol import RemoteFile
from linnaeus.remote._retry import Retry

LISTING = {"filesOnly": True, "noMimeType": True}
_PIECE_BYTES = 1 << 20
_NO_CODE = "(401 unknown)"
_NOT_OPENED = "Get request open error: "
# Below this rate a transfer never ends in practice; it is given up as one that stands still is.
TRICKLE_BYTES_PER_SECOND = 1024

Take = Callable[[memoryview, int], None]


@dataclass(frozen=True, slots=True)
class RcloneSession:
    """A signed-in look into one folder of a bucket, for any number of threads.

    Attributes:
        daemon: The running rclone.
        root: rclone's name for the bucket.
        prefix: The folder in it.
        retry: How often an act is tried.
        idle_seconds: How long nothing may come.
        digests: Which digests to ask for.
        failures: Makes errors of what rclone says.
    """

    daemon: Daemon
    root: str
    prefix: str
    retry: Retry
    idle_seconds: float
    digests: Sequence[str]
    failures: Failures

    @property
    def place(self) -> str:
        """What to call this place in messages."""
        return self.failures.place

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name; see `Remote.files`."""
        parameters = {"fs": self.root, "remote": self.prefix.rstrip("/"), "opt": LISTING}
        answer = self._call("listing", "operations/list", parameters)
        return sorted((remote_file(entry) for entry in answer["list"] or ()), key=lambda file: file.name)

    def stat(self, name: str) -> RemoteFile | None:
        """Return one file, or None; see `Session.stat`."""
        options = LISTING | ({"showHash": True, "hashTypes": list(self.digests)} if self.digests else {})
        parameters = {"fs": self.root, "remote": self.prefix + name, "opt": options}
        item = self._call(f"looking up {name}", "operations/stat", parameters)["item"]
        return None if item is None else remote_file(item)

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return bytes of a file; see `Session.read`."""

        def attempt(number: int) -> bytes:
            got = bytearray()
            self.stream(name, start, start + length, lambda piece, _: got.extend(piece), attempts=number)
            return bytes(got)

        return self.retry.run(attempt, worth_retrying)

    def stream(self, name: str, start: int, stop: int, take: Take, *, attempts: int = 1) -> None:
        """Hand the bytes of a range to `take(piece, offset)` as they come, once; see `Session.stream`."""
        operation = f"download of {name}"
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        target = f"/[{quote(self.root)}]/{quote(self.prefix + name)}"
        try:
            connection, answer = self.daemon.open(
                "GET", target, headers=headers, timeout=2 * self.idle_seconds
            )
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(operation, attempts, error) from error
        with closing(connection):
            if answer.status not in (200, 206):
                raise self._failed(operation, attempts, self._refusal(name, answer))
            first = start if answer.status == 206 else 0
            self._pass_on(name, answer, first, stop, take, attempts)

    def _pass_on(
        self, name: str, answer: http.client.HTTPResponse, at: int, stop: int, take: Take, attempts: int
    ) -> None:
        operation = f"download of {name}"
        buffer = memoryview(bytearray(_PIECE_BYTES))
        pace = Pace(2 * self.idle_seconds)
        while at < stop:
            try:
                # One read of what is there: waiting for a full piece would hide a trickle.
                count = answer.fp.readinto1(buffer[: min(_PIECE_BYTES, stop - at)])
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(operation, attempts, error) from error
            if not count:
                raise self._failed(operation, attempts, self._said(name) or "the connection was cut")
            take(buffer[:count], at)
            at += count
            if pace.is_trickle(count):
                slow = f"less than {TRICKLE_BYTES_PER_SECOND} bytes a second"
                raise self.failures.error(RemoteTimeoutError, operation, attempts, slow)

    def _refusal(self, name: str, answer: http.client.HTTPResponse) -> str:
        """Return why an object was not opened: rclone's answer tells it, or only its log."""
        text = answer.read().decode("utf-8", "replace")
        try:
            return str(json.loads(text)["error"])
        except (ValueError, LookupError, TypeError):
            return self._said(name) or text

    def _said(self, name: str) -> str:
        said = self.daemon.said_of(self.prefix + name) or self.daemon.said_of(name)
        return said[-1].removeprefix(_NOT_OPENED) if said else ""

    def _call(self, operation: str, command: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        def attempt(number: int) -> dict[str, Any]:
            try:
                connection, answer = self.daemon.open(
                    "POST", f"/{command}", body=parameters, headers={}, timeout=2 * self.idle_seconds
                )
                with closing(connection):
                    found: dict[str, Any] = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._silent(operation, number, error) from error
            if answer.status != http.client.OK:
                raise self._failed(operation, number, str(found.get("error", "")))
            return found

        return self.retry.run(attempt, worth_retrying)

    def _failed(self, operation: str, attempts: int, said: str) -> LinnaeusError:
        if _NO_CODE in said and attempts == 1:
            self._renew()
            return self.failures.error(RemoteError, operation, attempts, said)
        return self.failures.meaning(1, [said], operation, attempts)

    def _renew(self) -> None:
        """Make rclone sign in anew if its token has expired.

        The answer to a HEAD has no body that says why it is refused; that to a listing has, and rclone heeds
        it. What is no matter of the token is refused again.
        """
        self._call("listing", "operations/list", {"fs": self.root, "remote": self.prefix, "opt": LISTING})

    def _silent(self, operation: str, attempts: int, error: Exception) -> RemoteError:
        kind = RemoteTimeoutError if isinstance(error, TimeoutError) else RemoteError
        return self.failures.error(kind, operation, attempts, str(error) or type(error).__name__)


class Pace:
    """Notices a transfer that moves, but so slowly that it never ends.

    Args:
        window_seconds: How long the rate is averaged over.
        clock: Returns seconds, monotonic.
    """

    def __init__(self, window_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_seconds = window_seconds
        self._clock = clock
        self._since = clock()
        self._num_bytes = 0

    def is_trickle(self, num_bytes: int) -> bool:
        """Count bytes that came, and tell whether those of the last full window were too few."""
        self._num_bytes += num_bytes
        seconds = self._clock() - self._since
        if seconds < self._window_seconds:
            return False
        too_few = self._num_bytes < TRICKLE_BYTES_PER_SECOND * seconds
        self._since, self._num_bytes = self._clock(), 0
        return too_few


def remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    """Return a file as rclone lists it."""
    digests = {name.lower(): value for name, value in (entry.get("Hashes") or {}).items() if value}
    return RemoteFile(
        entry["Name"], int(entry["Size"]), digests, entry.get("ModTime"), str(entry.get("ID") or "") or None
    )


def worth_retrying(error: LinnaeusError) -> bool:
    """Tell whether an act that failed so may succeed the next time."""
    return type(error) in (RemoteError, RemoteTimeoutError)
