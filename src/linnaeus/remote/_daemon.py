"""An rclone that stays: one process that answers over a private socket for as long as it is needed.

It signs in once, and it serves any range of any object, whichever backend holds it (`rclone rcd --rc-serve`).
The socket lies in a directory that only this user can enter, so nobody else reaches the bucket through it;
the process ends with its owner, however that one ends.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from linnaeus.files import sweep_abandoned, temporary_name
from linnaeus.remote._child import before_start, parse_log_line

# Long enough to hold what belongs to one failure, whatever other streams say meanwhile.
_NUM_MESSAGES = 200
# A socket's path has at most 107 bytes, and some temporary directories have long names.
_LONGEST_DIRECTORY = 100
_SHORT_PLACE = Path("/tmp")  # noqa: S108 - the directory made in it is private
_START_SECONDS = 60.0
_POLL_SECONDS = 0.005
_LATE_SECONDS = 2.0


class DaemonError(Exception):
    """The daemon did not start, or is gone; the text is the last that it said."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """A running rclone; use it as a context, in the thread that outlives its use.

    Args:
        program: The rclone to run.
        options: Its options, free of secrets.
        environment: Its whole environment.
        in_background: Whether all other work goes first.
    """

    def __init__(
        self,
        program: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        *,
        in_background: bool = False,
    ) -> None:
        self._arguments = [program, "rcd", "--rc-serve", "--rc-no-auth", "--use-json-log", "-vv", *options]
        self._environment = dict(environment)
        self._in_background = in_background
        self._messages: deque[tuple[str, str]] = deque(maxlen=_NUM_MESSAGES)
        self._news = threading.Condition()

    def __enter__(self) -> Daemon:
        self._child: subprocess.Popen[bytes] | None = None
        self._directory = _private_directory()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        self._socket = str(self._directory / "rc")
        self._child = subprocess.Popen(
            [*self._arguments, f"--rc-addr=unix://{self._socket}"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=before_start(in_background=self._in_background),
        )
        ended = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(self._child.stderr, ended), daemon=True)
        self._listener.start()
        # It does not say when it listens.
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_listening():
            if ended.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                raise DaemonError("; ".join(text for _, text in self._messages) or "it said nothing")

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(self._socket) == 0

    def _listen(self, log: IO[bytes], ended: threading.Event) -> None:
        """Keep what rclone says, until it ends; its pipe must never fill up."""
        for data in log:
            line = parse_log_line(data)
            with self._news:
                self._messages.append((str(line.get("object", "")), str(line.get("msg", "")).strip()))
                self._news.notify_all()
        log.close()
        ended.set()

    def kill(self) -> None:
        """End it at once; every request under way fails."""
        if self._child is not None:
            self._child.kill()

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._listener.join()
        shutil.rmtree(self._directory, ignore_errors=True)

    def said_of(self, *names: str) -> list[str]:
        """Return what rclone said lately of an object that has these names, oldest first.

        Its log comes by another way than its answers, and may come a moment later.
        """

        def said() -> list[str]:
            return [text for about, text in self._messages if about in names]

        with self._news:
            self._news.wait_for(said, _LATE_SECONDS)
            return said()

    def open(
        self, method: str, target: str, *, body: object = None, headers: Mapping[str, str], timeout: float
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send one request and return its connection, to be closed, and its answer, to be read.

        Raises:
            OSError: rclone is silent for `timeout` seconds, or gone.
            http.client.HTTPException: It answered something else than HTTP.
        """
        connection = _Connection(self._socket, timeout)
        try:
            payload = None if body is None else json.dumps(body)
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, target, payload, {**headers, **kind})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


def _private_directory() -> Path:
    """Make a directory that only this user can enter, and sweep those of processes that were killed."""
    place = Path(tempfile.gettempdir())
    directory = temporary_name(place / "linnaeus")
    if len(str(directory)) > _LONGEST_DIRECTORY:
        place, directory = _SHORT_PLACE, _SHORT_PLACE / directory.name
    sweep_abandoned(place)
    directory.mkdir(mode=0o700)
    return directory
