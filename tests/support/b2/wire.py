"""Bodies over one connection, with the faults that break them off or slow them down.

A broken connection ends in `WireBrokenError`; the handler then lets the thread go. Nothing here outlives the
server's `stopping` event.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from io import BufferedIOBase

from .faults import Fault, Struck
from .journal import Record

CHUNK_BYTES = 64 * 1024
TRICKLE_SECONDS = 0.2
DRAIN_SECONDS = 0.002
MAX_DRAIN_WAITS = 500
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class WireBrokenError(Exception):
    """The connection is over, by a fault or by the client."""


class Wire:
    """The body bytes of one request and its answer."""

    def __init__(
        self,
        connection: socket.socket,
        reader: BufferedIOBase,
        writer: BufferedIOBase,
        stopping: threading.Event,
        rate: Callable[[], float | None] = lambda: None,
        expire_tokens: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._stopping = stopping
        self._rate = rate
        self._expire_tokens = expire_tokens

    def read(self, total: int, struck: Struck, record: Record) -> bytes:
        """Return a request body of `total` bytes, or break off as the faults say."""
        received = bytearray()

        def take(count: int) -> None:
            data = self._reader.read(count)
            record.bytes_received += len(data)
            received.extend(data)
            if len(data) < count:
                raise WireBrokenError("the client went away")

        self._pass(total, struck.interruption(), take)
        return bytes(received)

    def write(self, data: bytes, struck: Struck, record: Record) -> None:
        """Send a response body, or break off as the faults say."""
        sent = 0

        def give(count: int) -> None:
            nonlocal sent
            # Counted before it is sent: a client that has exited has had its bytes counted.
            record.bytes_sent += count
            self._writer.write(data[sent : sent + count])
            sent += count

        self._pass(len(data), struck.interruption(), give)

    def reset(self) -> None:
        """Close so that the client sees "connection reset by peer", after all that was sent before."""
        self._wait_until_acknowledged()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._connection.close()
        raise WireBrokenError("reset")

    def _wait_until_acknowledged(self) -> None:
        """Wait until the client's kernel has every byte: a reset throws away what is still on its way."""
        with contextlib.suppress(OSError):
            for _ in range(MAX_DRAIN_WAITS):
                (unacknowledged,) = struct.unpack(
                    "i", fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4))
                )
                if not unacknowledged or self._stopping.wait(DRAIN_SECONDS):
                    return

    def hang_up(self) -> None:
        """Close so that the client sees an early end of file."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        raise WireBrokenError("hung up")

    def _pass(self, total: int, fault: Fault | None, move: Callable[[int], None]) -> None:
        """Move `total` bytes by `move`, the interruption striking at its offset."""
        whole = total if fault is None else fault.offset(total)
        rate = self._rate()
        began = time.monotonic()
        for start in range(0, whole, CHUNK_BYTES):
            if rate is not None:
                self._stopping.wait(max(0.0, began + start / rate - time.monotonic()))
            move(min(CHUNK_BYTES, whole - start))
        if fault is not None:
            self._strike(fault, total - whole, move)

    def _strike(self, fault: Fault, remaining: int, move: Callable[[int], None]) -> None:
        if fault.kind == "expire":
            self._expire_tokens()
        if fault.kind in ("cut", "expire"):
            self.reset()
        elif fault.kind == "hangup":
            self.hang_up()
        elif fault.kind == "stall":
            self._stopping.wait()
            raise WireBrokenError("stalled until the end")
        else:
            self._trickle(remaining, move)

    def _trickle(self, remaining: int, move: Callable[[int], None]) -> None:
        """Move one byte every `TRICKLE_SECONDS`: never idle for a second, never done."""
        for _ in range(remaining):
            if self._stopping.wait(TRICKLE_SECONDS):
                raise WireBrokenError("the server stops")
            move(1)
