"""Run one rclone command to its end, watching that it moves.

rclone's own timeouts see an idle connection only. A child that makes no progress at all, for whatever
reason, or that outlasts the total deadline, is ended here. It also ends when this process is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

# A slow disk; while rclone hashes a file there is no progress to see.
HASHING_BYTES_PER_SECOND = 50e6
# Below this rate a transfer never ends in practice; it is given up as one that stands still is.
TRICKLE_BYTES_PER_SECOND = 1024
_POLL_SECONDS = 0.25
_PR_SET_PDEATHSIG = 1
_NICEST = 19
# Source: ioprio_set(2). The C library has no function for it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit status, what it printed, and its log messages, oldest first."""

    status: int
    output: str
    messages: Sequence[str]


class DeadlineError(Exception):
    """The command was ended because a deadline passed; the text says which."""


@dataclass(slots=True)
class _Watch:
    """Two deadlines: without progress, and in total. Seconds; None means none."""

    idle_seconds: float
    total_seconds: float | None
    started: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    done_bytes: int = -1
    hashing_seconds: float = 0.0
    window: tuple[float, int] = (0.0, 0)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        if done_bytes != self.done_bytes:
            self.done_bytes, self.moved = done_bytes, time.monotonic()
        # When all bytes are there, rclone may read them again for their digest, and tells of no progress.
        self.hashing_seconds = total_bytes / HASHING_BYTES_PER_SECOND if done_bytes >= total_bytes else 0.0

    def check(self) -> None:
        now = time.monotonic()
        if self.total_seconds is not None and now - self.started > self.total_seconds:
            raise DeadlineError(f"not done within {self.total_seconds:g} s")
        if now - self.moved > self.idle_seconds + self.hashing_seconds:
            raise DeadlineError(f"no progress for {self.idle_seconds:g} s")
        since, had = self.window
        if self.hashing_seconds or self.done_bytes <= 0 or not since:
            self.window = now, self.done_bytes
        elif now - since > self.idle_seconds:
            if self.done_bytes - had < TRICKLE_BYTES_PER_SECOND * (now - since):
                raise DeadlineError(f"less than {TRICKLE_BYTES_PER_SECOND} bytes a second")
            self.window = now, self.done_bytes


def run_child(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    idle_seconds: float,
    total_seconds: float | None,
    on_stats: Callable[[Mapping[str, Any]], None],
    in_background: bool = False,
) -> Outcome:
    """Run a command and return how it ended.

    Args:
        arguments: Program and arguments, free of secrets.
        environment: The child's whole environment.
        idle_seconds: End the child after this long without a byte of progress.
        total_seconds: End the child after this long altogether; None for no limit.
        on_stats: Called with each of rclone's statistics; what it raises ends the child.
        in_background: Whether all other work goes first, at the processor and at the disk.

    Raises:
        DeadlineError: The child was ended.
        OSError: The program can't be started.
    """
    child = subprocess.Popen(
        arguments,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before_start(in_background=in_background),
    )
    watch = _Watch(idle_seconds, total_seconds)
    try:
        with child:
            return _follow(child, watch, on_stats)
    finally:
        child.kill()
        child.wait()


def before_start(*, in_background: bool = False) -> Callable[[], None] | None:
    """Return what a child does before it becomes rclone; Linux only.

    The kernel ends it when this process dies; and in the background it gives way to all others. Both must be
    set before it starts: later they would reach one of its threads alone.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # looked up here: between fork and exec as little as possible happens
    prctl, syscall = library.prctl, library.syscall
    number = _IOPRIO_SET.get(platform.machine()) if in_background else None

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if in_background:
            os.nice(_NICEST)
        if number is not None:
            syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)

    return prepare


def _follow(
    child: subprocess.Popen[bytes], watch: _Watch, on_stats: Callable[[Mapping[str, Any]], None]
) -> Outcome:
    output: list[bytes] = []
    messages: list[str] = []
    try:
        for stream, data in _arrivals(child, watch):
            if stream is child.stdout:
                output.append(data)
                continue
            line = parse_log_line(data)
            if "stats" in line:
                watch.progress(int(line["stats"].get("bytes", 0)), int(line["stats"].get("totalBytes", 0)))
                on_stats(line["stats"])
            else:
                messages.append(str(line.get("msg", "")).strip())
    except BaseException:
        child.kill()
        raise
    return Outcome(child.wait(), b"".join(output).decode("utf-8", "replace"), messages)


def _arrivals(child: subprocess.Popen[bytes], watch: _Watch) -> Any:
    """Yield (stream, bytes) as they come: whole lines of the log, pieces of the output."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:  # never: both are asked for
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_POLL_SECONDS):
                stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
                data = stream.read1(1 << 16)  # type: ignore[attr-defined]
                if not data:
                    selector.unregister(stream)
                elif stream is child.stdout:
                    yield stream, data
                else:
                    *lines, pending = (pending + data).split(b"\n")
                    yield from ((stream, line) for line in lines)
            watch.check()
    if pending:
        yield child.stderr, pending


def parse_log_line(line: bytes) -> dict[str, Any]:
    """Return one line of rclone's log in JSON; any other text as its message."""
    text = line.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except ValueError:  # a panic or a message from before logging is set up
        return {"msg": text}
    return parsed if isinstance(parsed, dict) else {"msg": text}
