"""An agreement on what may take long: it waits for as long as all who are waited for give signs of life.

A rank watches those that tell it and, when it has told, rank 0; so whoever falls silent is noticed by one
that waits for it, and named to all. A failure is told at once, not when all others have come to their end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from linnaeus.distributed._agreement import Agreement, store_of_job
from linnaeus.distributed._heartbeat import Watch, beating
from linnaeus.distributed._outcome import Outcome
from linnaeus.distributed._party import Party
from linnaeus.distributed._store import Store

BEAT_SECONDS = 1.0
# Rank 0 may hold the store: it stays a little for those who have not read yet why all give up.
_FAREWELL_SECONDS = 3.0


class PatientAgreement(Agreement):
    """One agreement without a deadline, seen from one rank."""

    def __init__(self, party: Party, store: Store, what: str, prefix: str) -> None:
        super().__init__(party, store, what, prefix, party.deadline_seconds)
        self.what, self.prefix, self.waiting = what, prefix, party.waiting
        self._watch = Watch(store, party.waiting, party.silence_seconds)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life for the length of the block."""
        with beating(self._party.connect(), self._party.mine(self._beat(self._rank)), BEAT_SECONDS):
            yield

    def _beat(self, rank: int) -> str:
        return self._key("beat", rank)

    def _beats(self, ranks: Sequence[int]) -> Mapping[int, str]:
        return {rank: self._beat(rank) for rank in ranks}

    def still_wanted(self) -> None:
        """Return if what this rank does is still wanted.

        Raises:
            LinnaeusError: The others have given up, and why.
        """
        with store_of_job(self.what):
            if self.is_over():
                raise self.verdict().error(self.what, alike=True)

    def tell(self, act: Callable[[], Any]) -> Any:
        """Act, and tell the value to those who `hear` this rank; return it."""
        value = act()
        with store_of_job(self.what):
            told = self._party.mine(self._key("told", self._rank))
            self._store.set(told, Outcome(value).to_text())
        return value

    def hear(self, rank: int) -> Any:
        """Wait for what a rank tells, and return it.

        Raises:
            LinnaeusError: Some rank has failed.
            PeerFailedError: The rank gives no sign of life.
        """
        key = self._key("told", rank)
        self.watch_until(lambda: self._store.check([key]), [rank])
        return Outcome.from_text(self._store.get(key)).value

    def watch_until(self, condition: Callable[[], bool], ranks: Sequence[int]) -> None:
        """Wait until something holds, as long as some ranks give signs of life and none has failed.

        Raises:
            LinnaeusError: Some rank has failed.
            PeerFailedError: One of these gives no sign of life.
        """
        with store_of_job(self.what):
            held: list[bool] = []

            def come() -> bool:
                held[:] = [condition()]
                return held[0] or self.is_over()

            silent = self._watch.until(come, lambda: self._beats(ranks))
            if silent:
                self._give_up(silent)
        if not held[0]:
            self.still_wanted()

    def fail(self, error: BaseException) -> None:
        """Tell of this rank's own error at once."""
        with contextlib.suppress(RuntimeError):  # the store is gone, or all has been said; its own counts
            self._leave(Outcome.failed(self._rank, error))
            self.farewell()

    def farewell(self) -> None:
        """Let the others know that this rank has read that all give up; rank 0 waits for them a little."""
        self._store.set(self._party.mine(self._key("up", self._rank)), "")
        if self._rank == 0:
            others = [self._key("up", rank) for rank in range(1, self._world_size)]
            self._party.waiting.until(lambda: self._store.check(others), _FAREWELL_SECONDS)

    def _await(self, below: Sequence[int], have_come: Callable[[], bool]) -> None:
        def missing() -> Mapping[int, str]:
            return self._beats([rank for rank in below if not self._store.check([self._key("up", rank)])])

        silent = self._watch.until(have_come, missing)
        if silent:
            self._give_up(silent)

    def _verdict(self) -> Outcome:
        """Wait for the verdict for as long as rank 0 gives signs of life."""
        silent = self._watch.until(self.is_over, lambda: self._beats([0]))
        if silent:
            self._give_up(silent)
        return self.verdict()

    def _give_up(self, silent: list[int]) -> None:
        """Pronounce who fell silent, or find what somebody else pronounced."""
        if self._claim("abort"):
            self._pronounce(Outcome(missing=silent))
        elif not self._party.waiting.until(self.is_over, self._party.silence_seconds):
            raise Outcome(missing=silent).error(self.what, alike=False)  # who had the word fell silent too
