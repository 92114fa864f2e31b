"""Faults that tests ask for: which request, what goes wrong, how many times."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import B2Error

Kind = Literal[
    401, 403, 429, 500, 503,
    "download_cap_exceeded", "storage_cap_exceeded", "transaction_cap_exceeded",
    "cut", "hangup", "expire", "stall", "trickle", "damage", "short", "refuse", "lost",
    "no_checksum", "wrong_checksum",
]  # fmt: skip

ANY_OPERATION = "*"
INTERRUPTIONS = ("cut", "hangup", "expire", "stall", "trickle")
DOWNLOADS_ONLY = ("short",)
CHECKSUMS = ("no_checksum", "wrong_checksum")
WITH_CHECKSUMS = ("download", "head", "upload")
WRONG_SHA1 = "0" * 40

_CAPS = "See the Caps & Alerts page to increase your cap."
_ANSWERS: dict[object, tuple[str, str]] = {
    401: ("expired_auth_token", "Authorization token has expired"),
    403: ("access_denied", "Access denied"),
    429: ("too_many_requests", "Too many requests"),
    500: ("internal_error", "An internal error occurred"),
    503: ("service_unavailable", "no tomes available"),
    "download_cap_exceeded": (
        "download_cap_exceeded",
        f"Cannot download file, download bandwidth or transaction (Class B) cap exceeded. {_CAPS}",
    ),
    "storage_cap_exceeded": ("storage_cap_exceeded", f"Cannot upload files, storage cap exceeded. {_CAPS}"),
    "transaction_cap_exceeded": ("transaction_cap_exceeded", f"Transaction cap exceeded. {_CAPS}"),
}


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong. `times` counts down to 0; None is for ever. `name` None is every name."""

    operation: str
    kind: Kind
    times: int | None = None
    after_bytes: int | None = None
    name: str | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"fault kind {self.kind!r}: expected one of {get_args(Kind)}")
        if self.kind in DOWNLOADS_ONLY and self.operation not in ("download", "head"):
            raise ValueError(
                f"fault {self.kind!r} applies to 'download' and 'head', not to {self.operation!r}"
            )
        if self.kind in CHECKSUMS and self.operation not in WITH_CHECKSUMS:
            raise ValueError(f"fault {self.kind!r} applies to {WITH_CHECKSUMS}, not to {self.operation!r}")

    def matches(self, operation: str, name: str) -> bool:
        """Return whether a request of `operation` on `name` meets this fault."""
        return self.times != 0 and self.operation in (operation, ANY_OPERATION) and self.name in (name, None)

    def offset(self, total: int) -> int:
        """Return after how many of `total` body bytes it strikes: `after_bytes`, or half of them."""
        return min(total, total // 2 if self.after_bytes is None else self.after_bytes)

    def raise_answer(self) -> None:
        """Raise the error that the server is to answer with, where the fault is one of those."""
        if self.kind in _ANSWERS:
            code, message = _ANSWERS[self.kind]
            raise B2Error(code, message, retry_after=self.retry_after)

    def damaged(self, data: bytes) -> bytes:
        """Return `data` with one bit of one byte flipped, the byte at `offset`."""
        if self.kind != "damage" or not data:
            return data
        position = min(self.offset(len(data)), len(data) - 1)
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


class FaultPlan:
    """The faults in force; of several that match a request, all strike at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._share = 0.0
        self._random = random.Random()
        self._kinds: Sequence[Kind] = ()
        self._operations: Sequence[str] = ()

    def at_random(self, share: float, kinds: Sequence[Kind], operations: Sequence[str], seed: int) -> None:
        """Let a share of the requests of some operations meet one of several kinds, at any place."""
        with self._lock:
            self._random.seed(seed)
            self._share, self._kinds, self._operations = share, kinds, operations

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """End every fault; those that are striking go on."""
        with self._lock:
            self._faults.clear()
            self._share = 0.0

    def take(self, operation: str, name: str) -> Struck:
        """Return the faults that this request meets, and count them down."""
        with self._lock:
            met = [fault for fault in self._faults if fault.matches(operation, name)]
            for fault in met:
                if fault.times is not None:
                    fault.times -= 1
            return Struck((*met, *self._chance(operation)))

    def _chance(self, operation: str) -> list[Fault]:
        if operation not in self._operations or self._random.random() >= self._share:
            return []
        place = self._random.randrange(400_000)
        return [Fault(operation, self._random.choice(self._kinds), after_bytes=place)]


@dataclass(frozen=True, slots=True)
class Struck:
    """The faults that one request meets, usually none."""

    faults: tuple[Fault, ...] = ()

    def of_kind(self, *kinds: str) -> Fault | None:
        """Return the first fault of these kinds."""
        return next((fault for fault in self.faults if fault.kind in kinds), None)

    def raise_answer(self) -> None:
        """Raise the error to answer with, if any."""
        for fault in self.faults:
            fault.raise_answer()

    def damaged(self, data: bytes) -> bytes:
        """Return `data` as these faults leave it."""
        for fault in self.faults:
            data = fault.damaged(data)
        return data

    def sha1(self, true: str, none: str) -> str:
        """Return the checksum that the server tells in place of the true one."""
        if self.of_kind("no_checksum"):
            return none
        return WRONG_SHA1 if self.of_kind("wrong_checksum") else true

    def interruption(self) -> Fault | None:
        """Return the fault that breaks the body off or slows it down, if any."""
        return self.of_kind(*INTERRUPTIONS)


NO_FAULTS = Struck()
