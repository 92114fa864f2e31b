"""The threads of the test server, and how they all end.

Each connection has a thread. `stop` wakes the faults that wait, closes every open connection and joins every
thread, so that nothing outlives a test.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from .account import Account
from .faults import FaultPlan
from .handler import Handler
from .journal import Journal
from .operations import Operations
from .store import Store

LOOPBACK = "127.0.0.1"


class HttpServer(ThreadingHTTPServer):
    """What the handlers share, and the accepting thread."""

    # Threads are joined by server_close; a daemon would be left behind.
    daemon_threads = False
    block_on_close = True
    # A retrying client opens many connections at once.
    request_queue_size = 64

    def __init__(self, store: Store, account: Account, address: str = LOOPBACK) -> None:
        super().__init__((address, 0), Handler)
        self.store = store
        self.account = account
        self.journal = Journal()
        self.faults = FaultPlan()
        self.operations = Operations(store, account, lambda: self.endpoint)
        self.stopping = threading.Event()
        self.bytes_per_second: float | None = None
        self.failures: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        self._accepting = threading.Thread(target=self.serve_forever, args=(0.02,), name="b2-server")

    @property
    def endpoint(self) -> str:
        """The URL of the server."""
        return "http://{}:{}".format(*self.server_address)

    def start(self) -> None:
        """Begin to accept connections."""
        self._accepting.start()

    def stop(self) -> None:
        """Close everything and wait for every thread."""
        self.shutdown()
        self._accepting.join()
        self.stopping.set()
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection before a thread serves it, so that `stop` misses none."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is over."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep a fault of the server itself, for `stop`'s caller to raise; a lost client is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)
