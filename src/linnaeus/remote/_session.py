"""A bucket through an rclone that stays: ranges of objects, and many small acts for one sign-in."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from linnaeus.errors import LinnaeusError, RemoteError, RemoteNotFoundError, RemoteTimeoutError
from linnaeus.remote._b2_bucket import B2Bucket
from linnaeus.remote._child import TRICKLE_BYTES_PER_SECOND
from linnaeus.remote._daemon import Daemon
from linnaeus.remote._failures import Failures
from linnaeus.remote._protocol import RemoteFile
from linnaeus.remote._retry import Retry, worth_retrying

LISTING = {"filesOnly": True, "noMimeType": True}
_PIECE_BYTES = 1 << 20
_NO_CODE = "(401 unknown)"
# A token lasts for a day.
_RENEWED_SECONDS = 60.0
_WAITING_SECONDS = 20.0
# How rclone marks a version in a name.
_VERSION = r"-v\d{4}-\d{2}-\d{2}-\d{6}-\d{3}"
_NOT_OPENED = "Get request open error: "
_IS_VERSION = re.compile(_VERSION + r"\.\w+$")

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
        versioned_root: rclone's name for the bucket with all its versions; "" where it keeps none.
        b2: The same bucket, to be asked itself where rclone can't tell; None for other homes.
        renewal: When the sign-in was last renewed.
    """

    daemon: Daemon
    root: str
    prefix: str
    retry: Retry
    idle_seconds: float
    digests: Sequence[str]
    failures: Failures
    versioned_root: str = ""
    b2: B2Bucket | None = None
    renewal: Renewal = field(default_factory=lambda: Renewal())

    @property
    def place(self) -> str:
        """What to call this place in messages."""
        return self.failures.place

    @property
    def _patience(self) -> float:
        # rclone itself gives up what stands still; and it waits unheard where a bucket asks for patience.
        return 2 * self.idle_seconds + _WAITING_SECONDS

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name; see `Session.files`."""
        return sorted((remote_file(entry) for entry in self._directly(LISTING)), key=lambda file: file.name)

    def _directly(self, options: Mapping[str, bool]) -> Sequence[Mapping[str, Any]]:
        folder = self.prefix.rstrip("/")
        try:
            return self._list(self.root, folder, options)
        except RemoteNotFoundError:
            if self.b2 is not None or not folder:
                raise  # B2 has no folders: what is not there is the bucket
            # A folder that nothing was put into is told from a bucket that is not there, or was not just now.
            self._list(self.root, "")
            return self._list_if_any(folder, options)

    def _list_if_any(self, folder: str, options: Mapping[str, bool]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._list(self.root, folder, options)
        except RemoteNotFoundError:
            return ()

    def _list(
        self, root: str, folder: str, options: Mapping[str, bool] = LISTING
    ) -> Sequence[Mapping[str, Any]]:
        parameters = {"fs": root, "remote": folder, "opt": options}

        def attempt(number: int) -> Sequence[Mapping[str, Any]]:
            try:
                return self._ask("listing", "operations/list", parameters, number)["list"] or ()
            except RemoteNotFoundError as error:
                if self.b2 is None:
                    raise
                self.b2.require()  # which raises what is wrong
                there = "rclone did not find the bucket, and it is there"
                raise self.failures.error(RemoteError, "listing", number, there) from error

        return self.retry.run(attempt, worth_retrying)

    def files_and_folders(self) -> tuple[list[RemoteFile], list[str]]:
        """Return what is directly in this place; see `Session.files_and_folders`."""
        found = self._directly({"noMimeType": True})
        files = [remote_file(entry) for entry in found if not entry["IsDir"]]
        return sorted(files, key=lambda file: file.name), sorted(e["Name"] for e in found if e["IsDir"])

    def folder(self, name: str) -> list[RemoteFile]:
        """Return all files directly in a folder of this place; see `Session.folder`."""
        files = [remote_file(entry) for entry in self._list_if_any(self.prefix + name, LISTING)]
        return sorted((replace(file, name=f"{name}/{file.name}") for file in files), key=lambda f: f.name)

    def stat(self, name: str) -> RemoteFile | None:
        """Return one file, or None; see `Session.stat`."""
        options = LISTING | ({"showHash": True, "hashTypes": list(self.digests)} if self.digests else {})
        parameters = {"fs": self.root, "remote": self.prefix + name, "opt": options}
        item = self._call(f"looking up {name}", "operations/stat", parameters)["item"]
        return None if item is None else replace(remote_file(item), name=name)  # with its folder

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return bytes of a file; see `Session.read`."""

        def attempt(number: int) -> bytes:
            got = bytearray()
            self.stream(name, start, start + length, lambda piece, _: got.extend(piece), attempts=number)
            return bytes(got)

        return self.retry.run(attempt, worth_retrying)

    def stream(self, name: str, start: int, stop: int, take: Take, *, attempts: int = 1) -> None:
        """Hand the bytes of a range to `take(piece, offset)` as they come, once; see `Session.stream`."""
        operation, since = f"download of {name}", time.monotonic()
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        root = self.versioned_root if self.versioned_root and _IS_VERSION.search(name) else self.root
        target = f"/[{quote(root)}]/{quote(self.prefix + name)}"
        try:
            connection, answer = self.daemon.open("GET", target, headers=headers, timeout=self._patience)
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(operation, attempts, error) from error
        with closing(connection):
            if answer.status not in (200, 206):
                raise self._failed(operation, attempts, self._refusal(name, answer), since)
            connection.sock.settimeout(2 * self.idle_seconds)  # from here on it does not wait unheard
            first = start if answer.status == 206 else 0
            self._pass_on(name, answer, first, stop, take, attempts, since)

    def versions(self, name: str) -> list[RemoteFile]:
        """Return the hidden older versions of a file; see `Session.versions`."""
        if not self.versioned_root:
            return []
        entries = self._list(self.versioned_root, self.prefix.rstrip("/"))
        return hidden_versions(name, [remote_file(entry) for entry in entries])

    def delete(self, name: str) -> None:
        """Delete one file or version for good; see `Session.delete`."""
        parameters = {"fs": self.versioned_root or self.root, "remote": self.prefix + name}
        try:
            self._call(f"deleting {name}", "operations/deletefile", parameters)
        except RemoteNotFoundError:
            return

    def stop(self) -> None:
        """End it now; see `Session.stop`."""
        self.daemon.kill()

    def _pass_on(
        self,
        name: str,
        answer: http.client.HTTPResponse,
        at: int,
        stop: int,
        take: Take,
        attempts: int,
        since: float,
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
                raise self._failed(operation, attempts, self._said(name) or "the connection was cut", since)
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
        said = self.daemon.said_of(self.prefix + name, name)
        return said[-1].removeprefix(_NOT_OPENED) if said else ""

    def _call(self, operation: str, command: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self.retry.run(
            lambda number: self._ask(operation, command, parameters, number), worth_retrying
        )

    def _ask(
        self, operation: str, command: str, parameters: Mapping[str, Any], number: int
    ) -> dict[str, Any]:
        since = time.monotonic()
        try:
            connection, answer = self.daemon.open(
                "POST", f"/{command}", body=parameters, headers={}, timeout=self._patience
            )
            with closing(connection):
                found: dict[str, Any] = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._silent(operation, number, error) from error
        if answer.status != http.client.OK:
            raise self._failed(operation, number, str(found.get("error", "")), since)
        return found

    def _failed(self, operation: str, attempts: int, said: str, since: float) -> LinnaeusError:
        if _NO_CODE in said and self.renewal.may_help(since, self._sign_in_anew):
            return self.failures.error(RemoteError, operation, attempts, said)
        return self.failures.meaning(1, [said], operation, attempts)

    def _sign_in_anew(self) -> None:
        self._list(self.root, self.prefix.rstrip("/"))

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


def hidden_versions(name: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Return which of a bucket's files with all their versions are hidden older ones of a name. Pure.

    The newest of a name is listed under the name itself, the others with their time. An upload that was not
    ended is listed too, without a size; where it is the newest, what is to be seen has a time as well, and
    is the first of those.
    """
    stem, dot, suffix = name.rpartition(".")
    pattern = re.compile(re.escape(stem) + _VERSION + re.escape(dot + suffix))
    timed = [file for file in files if pattern.fullmatch(file.name) and file.size_bytes]
    timed.sort(key=lambda file: file.name, reverse=True)
    begun = any(file.name == name and not file.size_bytes for file in files)
    return timed[1:] if begun else timed


def remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    """Return a file as rclone lists it."""
    digests = {name.lower(): value for name, value in (entry.get("Hashes") or {}).items() if value}
    return RemoteFile(
        entry["Name"], int(entry["Size"]), digests, entry.get("ModTime"), str(entry.get("ID") or "") or None
    )


class Renewal:
    """Signing in anew, once for all threads, when the bucket refuses without saying why.

    The answer to a HEAD has no body that tells an expired token from a missing permission. That to a listing
    has, and rclone heeds it: so one listing renews an expired token. What is refused again is refused.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at: float | None = None

    def may_help(self, since: float, renew: Callable[[], None]) -> bool:
        """Renew the sign-in unless that was just done; tell whether to try again what began at `since`."""
        with self._lock:
            if self._at is not None and since < self._at:
                return True
            if self._at is not None and self._clock() - self._at < _RENEWED_SECONDS:
                return False
            self._at = self._clock()  # before, since the listing itself may be refused in this way
        renew()
        return True
