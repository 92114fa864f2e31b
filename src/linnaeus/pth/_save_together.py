"""The door to writing one file from all ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from linnaeus.files import Recycled
from linnaeus.pth._shares import Shares


class Ranks(Protocol):
    """All ranks of the job, as this room needs them; `linnaeus.distributed.Group` is one."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def agree(
        self,
        what: str,
        act: Callable[[], Any],
        *,
        merge: Callable[[list[Any]], Any] = ...,
        conclude: Callable[[Any], Any] = ...,
    ) -> Any:
        """Act on every rank, then on rank 0 with what all said; return the conclusion everywhere."""


def save_together(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    shares: Shares,
    ranks: Ranks,
    about: Mapping[str, Any] | None = None,
    durable: bool = True,
    recycled: Recycled | None = None,
) -> None:
    """Write one file from all ranks; call it on every rank. What `save` promises holds here too.

    Args:
        obj: On every rank the same structure with tensors of the same sizes; what is neither split nor shared
            according to `shares`, and every plain value, is rank 0's.
        path: Where to, the same file on every rank, on a filesystem that all share.
        shares: What this rank has of it.
        ranks: All ranks.
        about: What the file shall say of itself; rank 0's.
        durable: Wait until the bytes are on disk.
        recycled: On rank 0: a file whose blocks are written over.

    Raises:
        SaveError: As for `save`; the ranks hold other structures; or they share no directory.
        PeerFailedError: Another rank failed or is missing.
    """
    from linnaeus.pth._together import Session  # here, so that describing and resolving stay free of torch

    final = Path(path)
    session = Session(final, shares, ranks, durable=durable)
    try:
        session.write(obj, about or {}, recycled)
    finally:
        session.clear(recycled)
