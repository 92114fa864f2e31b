"""What a rank tells the others of how it went: a value, or failures; as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from linnaeus.errors import LinnaeusError, PeerFailedError, error_named

_NUM_TOLD = 8
_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an act on some ranks.

    Attributes:
        value: What they have to say, JSON; meaningless when there are failures.
        failures: The first few, each with rank, error, fields and text.
        num_failures: How many there were.
        missing: Ranks that were waited for in vain.
    """

    value: Any = None
    failures: Sequence[Mapping[str, Any]] = field(default=())
    num_failures: int = 0
    missing: Sequence[int] = field(default=())

    @property
    def is_good(self) -> bool:
        """Whether all went well."""
        return not self.failures and not self.missing

    def to_text(self) -> str:
        """Return what goes into the store."""
        if self.is_good:
            return json.dumps({"value": self.value}, separators=(",", ":"))
        return json.dumps(
            {"failures": self.failures, "num_failures": self.num_failures, "missing": self.missing},
            default=str,
        )

    @classmethod
    def from_text(cls, text: bytes) -> Outcome:
        """Return what was put into the store."""
        return cls(**json.loads(text))

    @classmethod
    def failed(cls, rank: int, error: BaseException) -> Outcome:
        """Return what to tell of an error."""
        fields = error.fields() if isinstance(error, LinnaeusError) else {}
        text = str(error)[:_LONGEST_TEXT] or type(error).__name__
        told = {"rank": rank, "error": type(error).__name__, "fields": fields, "text": text}
        return cls(failures=[told], num_failures=1)

    def error(self, what: str, *, alike: bool) -> LinnaeusError:
        """Return the error for the ranks that did not fail themselves.

        Args:
            what: What was being done.
            alike: Whether to return an error of the first failure's own kind where that is one of ours,
                since it is as true here as there.
        """
        if alike and self.failures:
            first = self.failures[0]
            error = error_named(first["error"], first["fields"])
            if error is not None:
                return error
        more = self.num_failures - len(self.failures)
        lines = [f"rank {one['rank']}: {one['error']}: {one['text']}" for one in self.failures]
        ranks = sorted({*self.missing, *(one["rank"] for one in self.failures)})
        return PeerFailedError(
            path=what,
            problem=_problem(self.missing, [one["rank"] for one in self.failures], more),
            ranks=ranks,
            details=lines,
            missing=list(self.missing),
        )


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the failures of several ranks as one outcome; its value is for the caller to make."""
    failures = [one for outcome in outcomes for one in outcome.failures]
    missing = sorted({rank for outcome in outcomes for rank in outcome.missing})
    num = sum(outcome.num_failures for outcome in outcomes)
    return Outcome(failures=failures[:_NUM_TOLD], num_failures=num, missing=missing)


def _problem(missing: Sequence[int], failed: Sequence[int], more: int) -> str:
    parts = []
    if failed:
        parts.append(f"{named(failed)} failed" + (f", and {more} more" if more else ""))
    if missing:
        parts.append(f"no word from {named(missing)} within the deadline: stopped, killed or far behind")
    return "; ".join(parts)


def named(ranks: Sequence[int]) -> str:
    """Return some ranks as a text, runs of neighbours in short."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    spelled = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(spelled)
