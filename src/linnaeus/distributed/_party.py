"""The ranks that agree, as one agreement of theirs sees them."""

from __future__ import annotations

from typing import Protocol

from linnaeus.distributed._roles import Roles
from linnaeus.distributed._store import Store, Waiting


class Party(Protocol):
    """All ranks, from one of them; `Group` is one."""

    roles: Roles
    deadline_seconds: float
    silence_seconds: float

    @property
    def waiting(self) -> Waiting:
        """How they wait."""

    def below(self, rank: int) -> list[int]:
        """Return the ranks that tell a rank."""

    def mine(self, key: str) -> str:
        """Note that this rank puts a key, so that it is removed when all are past it; return it."""

    def connect(self) -> Store:
        """Return a further connection to the store."""
