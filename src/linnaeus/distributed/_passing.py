"""Bytes of one rank handed to some others over a process group of their own, in pieces.

A collective that one member does not come to would hold the others until torch's own timeout. So none is
waited for blindly: each wait also ends when the agreement that this is part of is over, or a member falls
silent; and whoever fails takes the connections apart, which ends what the others wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from linnaeus.distributed._answering import Asking
from linnaeus.errors import LinnaeusError, PeerFailedError

if TYPE_CHECKING:
    from linnaeus.distributed._patient import PatientAgreement
    from linnaeus.distributed._store import Store

PIECE_BYTES = 8 << 20
# How long a member may take with a piece though it gives signs of life: a disk may be slow.
_PIECE_SECONDS = 120.0

Each = Callable[[memoryview, int], None]
"""Fills a piece on the rank that has the bytes, takes it on the others; is given where it begins."""


class Passing:
    """One passing of bytes, seen from one of the ranks that take part.

    Args:
        agreement: What it is part of.
        members: The ranks that take part; the first has the bytes.
        rank: This one.
        store: A connection that nobody else uses.
        silence_seconds: How long a member may give no sign of life.
    """

    def __init__(
        self,
        agreement: PatientAgreement,
        members: Sequence[int],
        rank: int,
        store: Store,
        silence_seconds: float,
    ) -> None:
        self._agreement, self._members = agreement, list(members)
        self._rank, self._is_source = rank, rank == members[0]
        self._store, self._silence_seconds = store, silence_seconds
        self._connections: Any = None

    def run(self, start: int, stop: int, each: Each) -> None:
        """Pass the bytes from `start` to before `stop`.

        Raises:
            PeerFailedError: A member is gone, or can't be reached.
            LinnaeusError: A member has failed.
        """
        try:
            self._connections = self._connected()  # kept until all members have everything
            self._stream(start, stop, each)
        except BaseException as error:
            self._disconnect()  # whatever it was, an interruption too: others wait for this rank's bytes
            if not isinstance(error, RuntimeError) or isinstance(error, LinnaeusError):
                raise
            # Gloo's: that a connection broke is the consequence of something, which is to be told instead.
            self._explain()
            raise self._unexplained(error) from error

    def _disconnect(self) -> None:
        """Take the connections apart, beside what else is to be done: that waits for what is under way."""
        held, self._connections = [self._connections], None
        threading.Thread(target=held.clear, name="linnaeus-disconnect", daemon=True).start()

    def _connected(self) -> Any:
        """Return connections of the members alone: what is broken off must not break the job's.

        A group that torch registers is named by its members, and the next of that name would find the
        addresses of this one.
        """
        import torch.distributed as distributed  # here, so that rooms which may agree stay free of torch

        members, prefixed = sorted(self._members), cast("Any", distributed.distributed_c10d).PrefixStore
        store = prefixed(f"{self._agreement.prefix}/pass", cast("Any", self._store).plain)
        rank, timeout = members.index(self._rank), timedelta(seconds=_PIECE_SECONDS)
        return Asking(2 * self._silence_seconds).ask(
            lambda: distributed.ProcessGroupGloo(store, rank, len(members), timeout=timeout)
        )

    def _stream(self, start: int, stop: int, each: Each) -> None:
        """Read or write one piece while the next one is on its way."""
        import torch

        buffers = [bytearray(min(PIECE_BYTES, stop - start)) for _ in range(2)]
        root, under_way = sorted(self._members).index(self._members[0]), list[Callable[[], None]]()
        for number, at in enumerate(range(start, stop, PIECE_BYTES)):
            piece = memoryview(buffers[number % 2])[: min(PIECE_BYTES, stop - at)]
            if self._is_source:
                each(piece, at)
            tensor = torch.frombuffer(piece, dtype=torch.uint8)
            work = self._connections.broadcast(tensor, root)
            under_way.append(self._end(work, piece, at, each))
            if len(under_way) == len(buffers):
                under_way.pop(0)()
        for end in under_way:
            end()

    def _end(self, work: Any, piece: memoryview, at: int, each: Each) -> Callable[[], None]:
        def end() -> None:
            self._agreement.watch_until(work.is_completed, self._members)
            work.wait()
            if not self._is_source:
                each(piece, at)

        return end

    def _explain(self) -> None:
        """Raise the error of who failed or fell silent, which is known by and by."""
        clock = self._agreement.waiting.clock
        end = clock() + 2 * self._silence_seconds
        self._agreement.watch_until(lambda: clock() > end, self._members)

    def _unexplained(self, error: RuntimeError) -> PeerFailedError:
        return PeerFailedError(
            path=self._agreement.what,
            problem=f"bytes can't be passed on ({str(error).splitlines()[0]})",
            ranks=self._members,
            advice="Ranks of all nodes must reach each other: see GLOO_SOCKET_IFNAME.",
        )
