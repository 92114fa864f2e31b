"""Bytes of one rank handed to some others over a process group of their own, in pieces.

A collective that one member does not come to would hold the others until torch's own timeout. So none is
waited for blindly: each wait also ends when the agreement that this is part of is over, or a member falls
silent; and whoever fails takes the group apart, which ends what the others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from linnaeus.errors import LinnaeusError, PeerFailedError

if TYPE_CHECKING:
    from linnaeus.distributed._patient import PatientAgreement

PIECE_BYTES = 8 << 20

Each = Callable[[memoryview, int], None]
"""Fills a piece on the rank that has the bytes, takes it on the others; is given where it begins."""


class Passing:
    """One passing of bytes, seen from one of the ranks that take part.

    Args:
        agreement: What it is part of.
        members: The ranks that take part; the first has the bytes.
        rank: This one.
        silence_seconds: How long a member may give no sign of life.
    """

    def __init__(
        self, agreement: PatientAgreement, members: Sequence[int], rank: int, silence_seconds: float
    ) -> None:
        self._agreement, self._members = agreement, list(members)
        self._source, self._is_source = members[0], rank == members[0]
        self._silence_seconds = silence_seconds

    def run(self, start: int, stop: int, each: Each) -> None:
        """Pass the bytes from `start` to before `stop`.

        Raises:
            PeerFailedError: A member is gone, or can't be reached.
            LinnaeusError: A member has failed.
        """
        import torch.distributed as distributed  # here, so that rooms which may agree stay free of torch

        group: Any = None
        try:
            # Connections of its own: what is broken off here must not break the job's.
            group = distributed.new_group(
                sorted(self._members),
                timeout=timedelta(seconds=2 * self._silence_seconds),
                backend="gloo",
                use_local_synchronization=True,
            )
            self._stream(group, start, stop, each)
        except RuntimeError as error:
            if isinstance(error, LinnaeusError):
                raise
            self._explain()
            raise self._unexplained(error) from error
        finally:
            if group is not None:
                distributed.destroy_process_group(group)

    def _stream(self, group: Any, start: int, stop: int, each: Each) -> None:
        """Read or write one piece while the next one is on its way."""
        import torch
        import torch.distributed as distributed

        buffers = [bytearray(min(PIECE_BYTES, stop - start)) for _ in range(2)]
        under_way: list[Callable[[], None]] = []
        for number, at in enumerate(range(start, stop, PIECE_BYTES)):
            piece = memoryview(buffers[number % 2])[: min(PIECE_BYTES, stop - at)]
            if self._is_source:
                each(piece, at)
            tensor = torch.frombuffer(piece, dtype=torch.uint8)
            work = distributed.broadcast(tensor, self._source, group=group, async_op=True)
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
