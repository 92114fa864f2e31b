"""Agreement of all ranks of a job through its store.

Invariant: every rank gets the same verdict of each agreement, or an error that names who is missing.

Messages go up a tree and the verdict comes down by one key. A rank puts at most two messages, asks for those
of a few others, and reads one verdict, whatever the size of the job.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from linnaeus.distributed._agreement import Act, Agreement, Merge, first, store_of_job
from linnaeus.distributed._heartbeat import Watch, beating
from linnaeus.distributed._outcome import Outcome
from linnaeus.distributed._passing import Each, Passing
from linnaeus.distributed._patient import BEAT_SECONDS, PatientAgreement
from linnaeus.distributed._roles import Roles
from linnaeus.distributed._store import Store, Waiting
from linnaeus.distributed._tree import FAN_OUT, children

DEADLINE_SECONDS = 300.0
SILENCE_SECONDS = 20.0
_AGREEMENTS_PER_CHAPTER = 100


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
        silence_seconds: float = SILENCE_SECONDS,
        waiting: Waiting | None = None,
        fan_out: int = FAN_OUT,
    ) -> None:
        self.roles = roles
        self.deadline_seconds = deadline_seconds
        self.silence_seconds = silence_seconds
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
        merge: Merge = first,
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
        agreement = Agreement(self, self._store, what, self._next("agree"), seconds)
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
            with store_of_job(what), beating(self._connect(), self.mine(beat), BEAT_SECONDS):
                return self._tell(self.mine(key), decide)
        with store_of_job(what):
            verdict = Outcome.from_text(self._hear(what, key, beat, by))
        if not verdict.is_good:
            raise verdict.error(what, alike=True)
        return verdict.value

    def decide_apart(self, what: str, by: int, decide: Callable[[Callable[[], None]], Any]) -> Any:
        """Decide on several ranks at once, each for some others; then see to it that all went well.

        It takes as long as it takes, if all ranks give signs of life. Call it when all have just agreed on
        something.

        Args:
            what: What is being decided, for messages.
            by: The rank whose decision is this rank's; those that are their own decide.
            decide: Done on the ranks that decide; is given what to call now and then meanwhile, which raises
                when some rank has failed.

        Returns:
            The decision of rank `by`.

        Raises:
            LinnaeusError: What `decide` raised on any rank, at once on every rank, where it is one of ours.
            PeerFailedError: It raised another one, or a rank is gone.
        """
        if self._store is None:
            return decide(lambda: None)

        def act(agreement: PatientAgreement) -> Any:
            if self.roles.rank == by:
                return agreement.tell(lambda: decide(agreement.still_wanted))
            return agreement.hear(by)

        return self._patiently(what, self._store, act)

    def pass_on(
        self,
        what: str,
        members: Sequence[int],
        span: tuple[int, int],
        each: Each,
        told: Callable[[], Any],
        then: Callable[[Any], None],
    ) -> None:
        """Hand bytes of one rank to some others, over a process group of theirs; call it on every rank.

        Args:
            what: What is passed on, for messages.
            members: The ranks that take part; the first has the bytes.
            span: The first byte's place, and the one after the last's.
            each: Fills a piece where the bytes are, takes it elsewhere; is given where it begins.
            told: Done at last where the bytes are; returns JSON values, which `then` is given.
            then: Done at last where the bytes have come to.

        Raises:
            LinnaeusError: What any of these raised on any rank, at once on every rank.
            PeerFailedError: A rank is gone.
        """

        def act(agreement: PatientAgreement) -> None:
            if self.roles.rank not in members:
                return
            passing = Passing(agreement, members, self.roles.rank, self.connect(), self.silence_seconds)
            passing.run(*span, each)
            if self.roles.rank == members[0]:
                agreement.tell(told)
            else:
                then(agreement.hear(members[0]))

        if self._store is not None:
            self._patiently(what, self._store, act)

    def _patiently(self, what: str, store: Store, act: Callable[[PatientAgreement], Any]) -> Any:
        """Act on every rank; return what came of it here when it went well everywhere."""
        agreement = PatientAgreement(self, store, what, self._next("agree"))
        with agreement.alive():
            try:
                found = act(agreement)
                verdict = agreement.reach(Outcome(), first, lambda _: None)
            except BaseException as error:
                agreement.fail(error)
                raise
            if not verdict.is_good:
                agreement.farewell()
                raise verdict.error(what, alike=True)
        self._forget()
        return found

    def connect(self) -> Store:
        """Return a further connection to the store; there is one when this process is not alone."""
        assert self._connect is not None  # noqa: S101 - set where there is a store
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
        watch = Watch(self.store, self._waiting, self.silence_seconds)
        silent = watch.until(lambda: self.store.check([key]), lambda: {by: beat})
        if silent:
            raise Outcome(missing=silent).error(what, alike=False)
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
