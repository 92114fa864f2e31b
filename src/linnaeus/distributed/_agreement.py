"""One agreement of all ranks, seen from one of them: messages up a tree, and a verdict for everybody.

A verdict is claimed by one rank through compare-and-set before it is written, so a rank whose patience ended
and rank 0 that comes to a conclusion can't both have it their way; a late rank finds the verdict and raises
the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from linnaeus.distributed._answering import NoAnswerError
from linnaeus.distributed._outcome import Outcome, joined
from linnaeus.distributed._party import Party
from linnaeus.distributed._store import Store, absent
from linnaeus.errors import PeerFailedError

# Who waits for others of the tree gives up a little before who waits for the verdict, and tells more.
_GRACE_SECONDS = 0.5

Merge = Callable[[list[Any]], Any]
Act = Callable[[], Any]


def first(values: list[Any]) -> Any:
    """Return rank 0's value: how values are merged that only it has."""
    return values[0]


@contextlib.contextmanager
def store_of_job(what: str) -> Iterator[None]:
    """Make an error of ours of what the store raises when it can't be reached."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__ != "torch.distributed" and not isinstance(error, NoAnswerError):
            raise
        raise PeerFailedError(
            path=what,
            problem=f"the store of the job does not answer ({str(error).splitlines()[0]}):"
            " the process that holds it, usually rank 0 or its launcher, is gone or can't be reached",
            ranks=[0],
        ) from error


class Agreement:
    """One agreement, seen from one rank."""

    def __init__(self, party: Party, store: Store, what: str, prefix: str, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._party, self._store, self._what, self._prefix = party, store, what, prefix
        self._rank, self._world_size = party.roles.rank, party.roles.world_size

    def _key(self, kind: str, rank: int | None = None) -> str:
        return f"{self._prefix}/{kind}" if rank is None else f"{self._prefix}/{kind}/{rank}"

    def reach(self, mine: Outcome, merge: Merge, conclude: Callable[[Any], Any]) -> Outcome:
        """Return the verdict."""
        with store_of_job(self._what):
            try:
                return self._reach(mine, merge, conclude)
            except (KeyboardInterrupt, SystemExit) as error:
                self._leave(Outcome.failed(self._rank, error))
                raise

    def fail(self, error: BaseException) -> None:
        """Tell of this rank's own error, and stay until the others know unless it is an interruption."""
        told = Outcome.failed(self._rank, error)
        with contextlib.suppress(PeerFailedError), store_of_job(self._what):  # its own is the one to raise
            if isinstance(error, Exception):
                self.reach(told, first, lambda merged: merged)
            else:
                self._leave(told)

    def _leave(self, told: Outcome) -> None:
        """Pronounce a failure at once, not waiting for anybody."""
        if self._claim("abort"):
            self._pronounce(told)

    def _reach(self, mine: Outcome, merge: Merge, conclude: Callable[[Any], Any]) -> Outcome:
        heard = [mine]
        below = self._party.below(self._rank)
        if below:
            up = [self._key("up", rank) for rank in below]
            self._store.set(self._party.mine(self._key("in", self._rank)), "")
            self._await(below, lambda: self._store.check(up) or self.is_over())
            if not self._store.check(up):
                return self._verdict()
            told = self._store.multi_get(up)
            if not all(told):  # who gives up says only that it has read why
                return self._verdict()
            heard += map(Outcome.from_text, told)
        merged = _merged(heard, merge)
        if self._rank == 0:
            return self._conclude(merged, conclude)
        self._store.set(self._party.mine(self._key("up", self._rank)), merged.to_text())
        return self._verdict()

    def _await(self, below: Sequence[int], have_come: Callable[[], bool]) -> None:
        """Wait for those that tell this rank, or give all up."""
        if not self._party.waiting.until(have_come, self._deadline_seconds):
            self._abort()

    def _conclude(self, merged: Outcome, conclude: Callable[[Any], Any]) -> Outcome:
        if not self._claim("conclude"):
            return self._verdict()
        try:
            verdict = Outcome(conclude(merged.value)) if merged.is_good else merged
        except BaseException as error:
            self._pronounce(Outcome.failed(0, error))
            raise
        self._pronounce(verdict)
        return verdict

    def is_over(self) -> bool:
        """Tell whether there is a verdict."""
        return self._store.check([self._key("verdict")])

    def _verdict(self) -> Outcome:
        """Wait for the verdict; give up once, and then, should rank 0 be concluding, a moment later."""
        for patience in (self._deadline_seconds + _GRACE_SECONDS, _GRACE_SECONDS):
            if self._party.waiting.until(self.is_over, patience):
                return self.verdict()
            self._abort()
        return Outcome(missing=[0])  # it claimed the conclusion and never came to it

    def verdict(self) -> Outcome:
        """Return the verdict, which is there."""
        return Outcome.from_text(self._store.get(self._key("verdict")))

    def _claim(self, purpose: str) -> bool:
        claim = f"{purpose} {self._rank}"
        return self._store.compare_set(self._key("claim"), "", claim) == claim.encode()

    def _abort(self) -> None:
        """Pronounce who is missing, unless somebody else has the word."""
        missing = self._missing()
        if self._claim("abort"):
            self._pronounce(Outcome(missing=missing or [0]))

    def _pronounce(self, verdict: Outcome) -> None:
        self._store.set(self._party.mine(self._key("verdict")), verdict.to_text())
        self._party.mine(self._key("claim"))

    def _missing(self) -> list[int]:
        """Return who did not come, and who came, heard all that they wait for, and said nothing."""
        leaders = {rank: below for rank in range(self._world_size) if (below := self._party.below(rank))}
        arrival = {
            self._key("in" if rank in leaders else "up", rank): rank for rank in range(self._world_size)
        }
        gone = [arrival[key] for key in absent(self._store, list(arrival))]
        silent = [rank for rank in leaders if rank not in gone and self._is_stuck(rank, leaders[rank])]
        return sorted({*gone, *silent} - {self._rank})

    def _is_stuck(self, rank: int, below: Sequence[int]) -> bool:
        heard_all = self._store.check([self._key("up", child) for child in below])
        return heard_all and (rank == 0 or not self._store.check([self._key("up", rank)]))


def _merged(heard: list[Outcome], merge: Merge) -> Outcome:
    if all(one.is_good for one in heard):
        return Outcome(merge([one.value for one in heard]))
    return joined(heard)
