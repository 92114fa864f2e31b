"""The door to writing one file from all ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from linnaeus.files import Recycled
from linnaeus.pth._shares import Shares

if TYPE_CHECKING:
    import torch


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


class Held(Protocol):
    """Keeps what is written as it was, while others may be about to change it; `state.Guard` is one."""

    def pieces(self, storage: torch.UntypedStorage, /) -> Iterator[memoryview]:
        """Yield the bytes of one of the storages that pieces consist of."""

    def require_same(self, crc32s: Mapping[int, int], /) -> None:
        """Compare what was written, by `_cdata` of its storage, with the sums of before."""

    def finish(self) -> None:
        """Let go of everything."""


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
    torn: str | None = None,
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
        torn: What of them did not hold still already; then nothing is published.
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
    session = Session(final, shares, ranks, durable=durable, held=held, torn=torn, publish=publish)
    try:
        return session.write(obj, about or {}, recycled)
    finally:
        session.clear(recycled)
