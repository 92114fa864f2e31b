"""Agreement of all ranks of a job through its store.

Invariant: every rank gets the same verdict of each agreement, or an error that names who is missing. A
verdict is claimed by one rank through compare-and-set before it is written, so a rank whose patience ended
and rank 0 that comes to a conclusion can't both have it their way; a late rank finds the verdict and raises
the same.

Messages go up a tree and the verdict comes down by one key. A rank puts at most two messages, asks for those
of a few others, and reads one verdict, whatever the size of the job.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from linnaeus.distributed._heartbeat import beating
from linnaeus.distributed._outcome import Outcome, joined
from linnaeus.distributed._roles import Roles
from linnaeus.distributed._store import Store, Waiting, absent
from linnaeus.distributed._tree import FAN_OUT, children
from linnaeus.errors import PeerFailedError

DEADLINE_SECONDS = 300.0
_BEAT_SECONDS = 1.0
_SILENCE_SECONDS = 20.0
_LONGEST_DECISION_SECONDS = 24 * 3600.0
# Who waits for others of the tree gives up a little before who waits for the verdict, and tells more.
_GRACE_SECONDS = 0.5

_AGREEMENTS_PER_CHAPTER = 100

Merge = Callable[[list[Any]], Any]
Act = Callable[[], Any]


def _first(values: list[Any]) -> Any:
    return values[0]


class Group:
    """All ranks of a job. Each method must be called on every rank, in the same order.

    Args:
        roles: Which of them this one is.
        connect: Returns a new connection to the store; None for a process that is alone.
        deadline_seconds: How long an agreement waits for the others.
        silence_seconds: How long the one who decides may give no sign of life.
        waiting: Waits between two looks at the store.
        fan_out: How many others a rank hears at each level of the tree.
    """

    def __init__(
        self,
        roles: Roles,
        connect: Callable[[], Store] | None,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        silence_seconds: float = _SILENCE_SECONDS,
        waiting: Waiting | None = None,
        fan_out: int = FAN_OUT,
    ) -> None:
        self.roles = roles
        self.deadline_seconds = deadline_seconds
        self._silence_seconds = silence_seconds
        self._connect = connect
        self._store = connect() if connect else None
        self._waiting = waiting or Waiting(roles.world_size)
        self._fan_out = fan_out
        self._name = ""
        self._number = 0
        self._mine: list[str] = []

    def barrier(self, what: str) -> None:
        """Wait for all ranks.

        Raises:
            PeerFailedError: Some did not come within the deadline.
        """
        self.agree(what, lambda: None)

    def agree(
        self,
        what: str,
        act: Act,
        *,
        merge: Merge = _first,
        conclude: Callable[[Any], Any] = lambda merged: merged,
        alike: bool = False,
        deadline_seconds: float | None = None,
    ) -> Any:
        """Act on every rank, and then on rank 0 with what all have to say; tell everybody the conclusion.

        Nobody gets past this before all have acted, and rank 0 concludes only if all succeeded.

        Args:
            what: What is being done, for messages.
            act: Done on every rank; returns JSON values.
            merge: Makes one value of several, those of neighbouring ranks in rising order; called on the
                way up, so also with what it returned. By default rank 0's value is taken.
            conclude: Done on rank 0 with the merged value; returns what every rank gets, JSON values.
            alike: On ranks that did not fail themselves, raise the first failure's own kind.

            deadline_seconds: How long to wait for the others, where it is not the group's.

        Returns:
            The conclusion, the same on every rank.

        Raises:
            PeerFailedError: On another rank `act` or `conclude` failed, or a rank is missing.
            BaseException: What `act` or `conclude` raised on this rank.
        """
        if self._store is None:
            return conclude(merge([act()]))
        seconds = deadline_seconds or self.deadline_seconds
        agreement = _Agreement(self, self._store, what, self._next("agree"), seconds)
        try:
            mine = Outcome(act())
        except BaseException as error:
            agreement.fail(error)
            raise
        verdict = agreement.reach(mine, merge, conclude)
        if not verdict.is_good:
            raise verdict.error(what, alike=alike)
        self._forget()
        return verdict.value

    def decide_once(self, what: str, decide: Act, *, by: int = 0) -> Any:
        """Decide on one rank, and tell everybody, who wait as long as that one gives signs of life.

        Args:
            what: What is being decided, for messages.
            decide: Done on rank `by` alone; returns JSON values: the decision with its reason.
            by: The rank that decides.

        Returns:
            The decision, the same on every rank.

        Raises:
            LinnaeusError: What `decide` raised, on every rank, where it is one of our errors.
            PeerFailedError: It raised another one, or the rank that decides is gone.
        """
        if self._store is None or self._connect is None:
            return decide()
        key, beat = self._next("decision"), self._next("beat")
        if self.roles.rank == by:
            with store_of_job(what), beating(self._connect(), self.mine(beat), _BEAT_SECONDS):
                return self._tell(self.mine(key), decide)
        with store_of_job(what):
            verdict = Outcome.from_text(self._hear(what, key, beat, by))
        if not verdict.is_good:
            raise verdict.error(what, alike=True)
        return verdict.value

    def decide_apart(self, what: str, deciders: Sequence[int], mine: int, decide: Act) -> Any:
        """Decide on several ranks at once, each for some others; then see to it that all went well.

        Args:
            what: What is being decided, for messages.
            deciders: The ranks that decide, the same on every rank.
            mine: The one whose decision is this rank's.
            decide: Done on the ranks that decide.

        Returns:
            The decision of rank `mine`.

        Raises:
            LinnaeusError: What `decide` raised on any rank, on every rank, where it is one of our errors.
            PeerFailedError: It raised another one, or a rank is gone.
        """
        if self._store is None or self._connect is None:
            return decide()
        keys = {by: (self._next(f"decision/{by}"), self._next(f"beat/{by}")) for by in deciders}
        key, beat = keys[mine]

        def act() -> Any:
            if self.roles.rank == mine:
                with beating(self._connect_again(), self.mine(beat), _BEAT_SECONDS):
                    return self._tell(self.mine(key), decide)
            with store_of_job(what):
                heard = Outcome.from_text(self._hear(what, key, beat, mine))
            if not heard.is_good:
                raise heard.error(what, alike=True)
            return heard.value

        found: list[Any] = []
        # Who waits for a decider notices its end by itself, so the rest may wait for as long as it takes.
        self.agree(what, lambda: found.append(act()), alike=True, deadline_seconds=_LONGEST_DECISION_SECONDS)
        return found[0]

    def _connect_again(self) -> Store:
        assert self._connect is not None  # noqa: S101 - callers have checked
        return self._connect()

    def _tell(self, key: str, decide: Act) -> Any:
        try:
            decision = Outcome(decide())
        except BaseException as error:
            self.store.set(key, Outcome.failed(self.roles.rank, error).to_text())
            raise
        self.store.set(key, decision.to_text())
        return decision.value

    def _hear(self, what: str, key: str, beat: str, by: int) -> bytes:
        """Wait for a key for as long as another one changes."""
        last = b""
        while not self._waiting.until(lambda: self.store.check([key]), self._silence_seconds):
            now = self.store.get(beat) if self.store.check([beat]) else b""
            if now == last:
                raise Outcome(missing=[by]).error(what, alike=False)
            last = now
        return self.store.get(key)

    def beside(self, name: str) -> Group:
        """Return a group of the same ranks for another thread: its own connection, its own conversation."""
        made = copy.copy(self)
        made._store = self._connect() if self._connect else None
        made._name, made._number, made._mine = f"{name}/", 0, []
        return made

    def begin_chapter(self, number: int) -> None:
        """Go on at the same point as all ranks, also where this one broke off before; the number rises."""
        self._number = number * _AGREEMENTS_PER_CHAPTER

    @property
    def store(self) -> Store:
        """The connection; there is one when this process is not alone."""
        assert self._store is not None  # noqa: S101 - callers have checked
        return self._store

    @property
    def waiting(self) -> Waiting:
        """How this group waits."""
        return self._waiting

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.roles.rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.roles.world_size

    @property
    def leads_node(self) -> bool:
        """Whether this process is the one that acts when one of each node suffices."""
        return self.roles.leads_node

    def below(self, rank: int) -> list[int]:
        """Return the ranks that tell a rank."""
        return children(rank, self.roles.world_size, self._fan_out)

    def mine(self, key: str) -> str:
        """Note that this rank puts a key, so that it is removed when all are past it; return it."""
        self._mine.append(key)
        return key

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{self._name}{self._number}/{kind}"

    def _forget(self) -> None:
        """Remove this rank's keys of before: all are past them, since all came to this agreement."""
        current = f"{self._name}{self._number}/"
        for key in self._mine:
            if not key.startswith(current):
                self.store.delete_key(key)
        self._mine = [key for key in self._mine if key.startswith(current)]


@contextlib.contextmanager
def store_of_job(what: str) -> Iterator[None]:
    """Make an error of ours of what the store raises when it can't be reached."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__ != "torch.distributed":
            raise
        raise PeerFailedError(
            path=what,
            problem=f"the store of the job does not answer ({str(error).splitlines()[0]}):"
            " the process that holds it, usually rank 0 or its launcher, is gone",
            ranks=[0],
        ) from error


class _Agreement:
    """One agreement, seen from one rank."""

    def __init__(self, group: Group, store: Store, what: str, prefix: str, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._group, self._store, self._what, self._prefix = group, store, what, prefix
        self._rank, self._world_size = group.roles.rank, group.roles.world_size

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
                self.reach(told, _first, lambda merged: merged)
            else:
                self._leave(told)

    def _leave(self, told: Outcome) -> None:
        """Pronounce a failure at once, not waiting for anybody."""
        if self._claim("abort"):
            self._pronounce(told)

    def _reach(self, mine: Outcome, merge: Merge, conclude: Callable[[Any], Any]) -> Outcome:
        heard = [mine]
        up = [self._key("up", rank) for rank in self._group.below(self._rank)]
        if up:
            self._store.set(self._group.mine(self._key("in", self._rank)), "")
            come = self._group.waiting.until(
                lambda: self._store.check(up) or self._is_over(), self._deadline_seconds
            )
            if not come:
                self._abort()
            if not self._store.check(up):
                return self._verdict()
            heard += map(Outcome.from_text, self._store.multi_get(up))
        merged = _merged(heard, merge)
        if self._rank == 0:
            return self._conclude(merged, conclude)
        self._store.set(self._group.mine(self._key("up", self._rank)), merged.to_text())
        return self._verdict()

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

    def _is_over(self) -> bool:
        return self._store.check([self._key("verdict")])

    def _verdict(self) -> Outcome:
        """Wait for the verdict; give up once, and then, should rank 0 be concluding, a moment later."""
        for patience in (self._deadline_seconds + _GRACE_SECONDS, _GRACE_SECONDS):
            if self._group.waiting.until(self._is_over, patience):
                return Outcome.from_text(self._store.get(self._key("verdict")))
            self._abort()
        return Outcome(missing=[0])  # it claimed the conclusion and never came to it

    def _claim(self, purpose: str) -> bool:
        claim = f"{purpose} {self._rank}"
        return self._store.compare_set(self._key("claim"), "", claim) == claim.encode()

    def _abort(self) -> None:
        """Pronounce who is missing, unless somebody else has the word."""
        missing = self._missing()
        if self._claim("abort"):
            self._pronounce(Outcome(missing=missing or [0]))

    def _pronounce(self, verdict: Outcome) -> None:
        self._store.set(self._group.mine(self._key("verdict")), verdict.to_text())
        self._group.mine(self._key("claim"))

    def _missing(self) -> list[int]:
        """Return who did not come, and who came, heard all that they wait for, and said nothing."""
        leaders = {rank: below for rank in range(self._world_size) if (below := self._group.below(rank))}
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
