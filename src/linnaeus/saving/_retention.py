"""Which checkpoints of a run to keep, and why. Pure: a listing in, verdicts with reasons out.

The union of all rules is kept. The newest usable checkpoint is always kept, also when no rule asks for it,
and so are those that are pinned, the one that the run was resumed from, and damaged ones, which are evidence.
A listing may be that of a directory or of a bucket. Everything is read from the files, so that the answer
is the same after a restart and after the directory has moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from linnaeus.config import CheckpointScheduleConfig
from linnaeus.runs import LATEST_LINK


class Candidate(Protocol):
    """One file of a listing, as the rules see it; `linnaeus.runs.RunCheckpoint` is one."""

    @property
    def name(self) -> str:
        """The file's name, by which others refer to it."""

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, step), by which newer and older are decided; never a time, since clocks jump."""

    @property
    def ends_epoch(self) -> bool:
        """Whether it was saved at the end of an epoch."""

    @property
    def saved_at(self) -> float | None:
        """When it was saved, in seconds since 1970; None when it does not say."""

    @property
    def is_usable(self) -> bool:
        """Whether it is whole, as far as the listing can tell."""

    @property
    def is_pinned(self) -> bool:
        """Whether the user wants it kept."""

    @property
    def resumed_from(self) -> str | None:
        """The name of the file that the process which saved it had gone on from."""

    def metric(self, name: str) -> float | None:
        """Return a metric; None when it was not measured or is not a number."""


FileT = TypeVar("FileT", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Verdict(Generic[FileT]):
    """What becomes of one checkpoint; it is kept for each of `reasons` and removed when there is none."""

    checkpoint: FileT
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether the file stays."""
        return bool(self.reasons)

    @property
    def reason(self) -> str:
        """The reasons in words, also when there is none."""
        return ", ".join(self.reasons) or "no rule keeps it"


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep; 0 switches a rule off, and with all rules off everything is kept.

    Attributes:
        keep_last_n: The newest n.
        keep_top_n: The n best by `metric`; ties go to the newer, NaN and unmeasured ones are not ranked.
        keep_every_n_epochs: Those saved at the end of every n-th epoch.
        metric: The name of the metric that ranks.
        mode: "min" when less is better, "max" when more is.
        keep_every_hours: One of every so many hours, beginning with the oldest.
    """

    keep_last_n: int = 3
    keep_top_n: int = 1
    keep_every_n_epochs: int = 0
    metric: str = "loss"
    mode: str = "min"
    keep_every_hours: float = 0

    @classmethod
    def of(cls, plan: CheckpointScheduleConfig) -> Retention:
        """Return the rules of a config, its section `SCHEDULE.CHECKPOINT`."""
        return cls(
            plan.KEEP_LAST_N,
            plan.KEEP_TOP_N,
            plan.KEEP_EVERY_N_EPOCHS,
            metric=plan.METRIC,
            mode=plan.MODE,
            keep_every_hours=plan.KEEP_EVERY_HOURS,
        )

    @property
    def removes(self) -> bool:
        """Whether any rule is set, so that what none keeps goes."""
        return bool(self.keep_last_n or self.keep_top_n or self.keep_every_n_epochs or self.keep_every_hours)

    def ranked(self, checkpoints: Sequence[FileT]) -> list[FileT]:
        """Return the checkpoints that have the metric, best first."""
        sign = 1 if self.mode == "max" else -1
        measured = [c for c in checkpoints if c.is_usable and c.metric(self.metric) is not None]
        return sorted(
            measured, key=lambda c: (sign * (c.metric(self.metric) or 0.0), c.order, c.name), reverse=True
        )


def decide(
    files: Sequence[FileT], rules: Retention, protected: Mapping[str, str] | None = None
) -> list[Verdict[FileT]]:
    """Return a verdict on each file, newest first.

    Args:
        files: All checkpoints of one run in one place, damaged ones included; those are never removed,
            since they are not this function's to judge.
        rules: What to keep.
        protected: Names of files to keep whatever the rules say, with the reason for each.
    """
    ordered = sorted(files, key=lambda c: (c.order, c.name), reverse=True)
    reasons: dict[str, list[str]] = {c.name: [] for c in ordered}
    usable = [c for c in ordered if c.is_usable]
    for name, reason in [*_always(ordered, usable), *(protected or {}).items(), *_by_rules(usable, rules)]:
        if name in reasons:
            reasons[name].append(reason)
    return [Verdict(c, tuple(dict.fromkeys(reasons[c.name]))) for c in ordered]


def _always(ordered: Sequence[FileT], usable: Sequence[FileT]) -> Iterator[tuple[str, str]]:
    for newest in usable[:1]:
        yield newest.name, "the newest"
        if newest.resumed_from is not None:
            yield newest.resumed_from, "this run was resumed from it"
    for file in ordered:
        if not file.is_usable:
            yield file.name, "damaged, for you to look at"
        if file.is_pinned:
            yield file.name, "pinned"
        if file.name == LATEST_LINK:
            yield file.name, "a real file of an earlier version stands there"


def _by_rules(usable: Sequence[FileT], rules: Retention) -> Iterator[tuple[str, str]]:
    if not rules.removes:
        yield from ((c.name, "no rule removes") for c in usable)
        return
    last = _of_different_steps(usable)[: rules.keep_last_n]
    yield from ((c.name, f"among the last {rules.keep_last_n}") for c in last)
    best = rules.ranked(usable)[: rules.keep_top_n]
    yield from ((c.name, f"number {place} by {rules.metric}") for place, c in enumerate(best, 1))
    if rules.keep_every_n_epochs:
        every = [c for c in usable if c.ends_epoch and c.order[0] % rules.keep_every_n_epochs == 0]
        yield from ((c.name, f"every {rules.keep_every_n_epochs} epochs") for c in every)
    if rules.keep_every_hours:
        spaced = _spaced(usable, rules.keep_every_hours * 3600)
        yield from ((c.name, f"every {rules.keep_every_hours:g} hours") for c in spaced)


def _of_different_steps(usable: Sequence[FileT]) -> list[FileT]:
    """Return the files but those from inside an epoch that ended without a further step, and was saved."""
    found: list[FileT] = []
    for file in usable:
        if not found or file.ends_epoch or file.order[1] != found[-1].order[1]:
            found.append(file)
    return found


def _spaced(usable: Sequence[FileT], seconds: float) -> Iterator[FileT]:
    """Yield, from the oldest on, each that is so far in time from the one before.

    In either direction: after a clock was set back, the first one counts from there. Whatever comes later or
    is removed of the others, the choice among the older ones stays.
    """
    last: float | None = None
    for file in reversed(usable):
        if file.saved_at is not None and (last is None or abs(file.saved_at - last) >= seconds):
            last = file.saved_at
            yield file
