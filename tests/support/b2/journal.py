"""What was asked of the server, so that tests can count requests and bytes."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class Record:
    """One request. It is kept from the moment it arrives and grows while it is served.

    `status` is 0 until there is one, and stays 0 for a connection closed without an answer. `bytes_sent`
    counts the body bytes handed to the socket, `bytes_received` those of an upload read from it. `name` is
    the object's, the prefix of a listing, or "".
    """

    operation: str
    name: str
    range: str | None = None
    status: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Journal:
    """The records, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[Record] = []

    def open(self, operation: str, name: str, range_header: str | None) -> Record:
        """Append a record and return it, to be filled in by the thread that serves the request."""
        record = Record(operation, name, range_header)
        with self._lock:
            self._records.append(record)
        return record

    def records(self) -> list[Record]:
        """Return the records so far."""
        with self._lock:
            return list(self._records)

    def clear(self) -> None:
        """Forget them."""
        with self._lock:
            self._records.clear()
