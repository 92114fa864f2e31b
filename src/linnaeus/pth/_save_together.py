"""The door to writing one file from all ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from linnaeus.files import Recycled
from linnaeus.pth._held import Held
from linnaeus.pth._ranks import Ranks
from linnaeus.pth._shares import Shares


def save_together(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    shares: Shares,
    ranks: Ranks,
    about: Mapping[str, Any] | None = None,
    durable: bool = True,
    recycled: Recycled | None = None,
    held: Held | None = None,
    publish: Callable[[Path], object] | None = None,
) -> int:
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
        held: How to read this rank's pieces, when they may change meanwhile.
        publish: On rank 0: makes the finished file, which is on disk, what `path` names. By default it is
            renamed.

    Returns:
        The size of the file in bytes.

    Raises:
        SaveError: As for `save`; the ranks hold other structures; or they share no directory.
        TornSaveError: On some rank the pieces did not hold still; on every rank.
        PeerFailedError: Another rank failed or is missing.
    """
    from linnaeus.pth._together import Session  # here, so that describing and resolving stay free of torch

    final = Path(path)
    session = Session(final, shares, ranks, durable=durable, held=held, publish=publish)
    try:
        return session.write(obj, about or {}, recycled)
    finally:
        session.clear(recycled)
