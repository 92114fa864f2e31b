"""Which checkpoints of a run to keep, and why. Pure: a list in, verdicts with reasons out.

The union of all rules is kept. The newest usable checkpoint is always kept, also when no rule asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linnaeus.runs import LATEST_LINK, RunCheckpoint


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one checkpoint; it is kept for each of `reasons` and removed when there is none."""

    checkpoint: RunCheckpoint
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether the file stays."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep; 0 switches a rule off, and with all rules off everything is kept.

    Attributes:
        keep_last_n: The newest n.
        keep_top_n: The n best by `metric`; ties go to the newer, NaN and unmeasured ones are not ranked.
        keep_every_n_epochs: Those saved at the end of every n-th epoch.
        metric: The name of the metric that ranks.
        mode: "min" when less is better, "max" when more is.
    """

    keep_last_n: int = 3
    keep_top_n: int = 1
    keep_every_n_epochs: int = 0
    metric: str = "loss"
    mode: str = "min"

    def decide(self, checkpoints: Sequence[RunCheckpoint], protected: Sequence[Path] = ()) -> list[Verdict]:
        """Return a verdict on each checkpoint, newest first.

        Args:
            checkpoints: What the run's directory holds, damaged ones included; those are never removed,
                since they are evidence and not this rule's to judge.
            protected: Files to keep whatever the rules say, for example the one resumed from.
        """
        ordered = sorted(checkpoints, key=lambda c: (c.order, c.path.name), reverse=True)
        usable = [c for c in ordered if c.problem is None]
        reasons: dict[Path, list[str]] = {c.path: [] for c in ordered}
        for path, reason in self._reasons(usable):
            reasons[path].append(reason)
        for checkpoint in ordered:
            if checkpoint.problem is not None:
                reasons[checkpoint.path].append("damaged, for you to look at")
            elif checkpoint.path.name == LATEST_LINK:
                reasons[checkpoint.path].append("a real file of an earlier version stands there")
            elif checkpoint.path in protected:
                reasons[checkpoint.path].append("this run was resumed from it")
        return [Verdict(checkpoint, tuple(reasons[checkpoint.path])) for checkpoint in ordered]

    def _reasons(self, usable: list[RunCheckpoint]) -> list[tuple[Path, str]]:
        found = [(c.path, "the newest") for c in usable[:1]]
        if not (self.keep_last_n or self.keep_top_n or self.keep_every_n_epochs):
            return found + [(c.path, "no rule removes") for c in usable]
        found += [(c.path, f"among the last {self.keep_last_n}") for c in usable[: self.keep_last_n]]
        best = self.ranked(usable)[: self.keep_top_n]
        found += [(c.path, f"number {place} by {self.metric}") for place, c in enumerate(best, 1)]
        if self.keep_every_n_epochs:
            every = [c for c in usable if c.ends_epoch and c.epoch % self.keep_every_n_epochs == 0]
            found += [(c.path, f"every {self.keep_every_n_epochs} epochs") for c in every]
        return found

    def ranked(self, checkpoints: Sequence[RunCheckpoint]) -> list[RunCheckpoint]:
        """Return the checkpoints that have the metric, best first."""
        sign = 1 if self.mode == "max" else -1
        measured = [c for c in checkpoints if c.problem is None and c.metric(self.metric) is not None]
        return sorted(measured, key=lambda c: (sign * (c.metric(self.metric) or 0.0), c.order), reverse=True)
