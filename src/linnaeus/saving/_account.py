"""What saving has cost so far: one record for each save, and the totals of the run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnaeus.saving._grace import grace_warning

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SaveRecord:
    """One save.

    Attributes:
        path: The checkpoint.
        step: Optimizer steps done.
        size_bytes: Of the file.
        blocked_seconds: How long training stood still for it.
        write_seconds: From its beginning until it was on disk and older ones were pruned.
        cpu_seconds: What the writing took of the processors.
    """

    path: Path
    step: int
    size_bytes: int
    blocked_seconds: float
    write_seconds: float
    cpu_seconds: float = 0.0

    @property
    def megabytes_per_second(self) -> float:
        """How fast it was written."""
        return self.size_bytes / 1e6 / max(self.write_seconds, 1e-9)

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "step": self.step,
            "size_bytes": self.size_bytes,
            "blocked_ms": round(self.blocked_seconds * 1e3, 3),
            "write_seconds": round(self.write_seconds, 4),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "mb_per_second": round(self.megabytes_per_second, 1),
        }


OnSave = Callable[[SaveRecord, Mapping[str, Any]], None]


@dataclass(slots=True)
class Account:
    """The totals of one process.

    Attributes:
        on_save: Is told of each save.
        grace_seconds: How long the machine lets a program live after a signal that asks to end.
        num_saves: Checkpoints made.
        num_failures: Saves that failed.
        num_skipped: Saves left out because one was under way.
        num_redone: Saves done again because tensors did not hold still.
        blocked_seconds: How long training stood still for saving.
        lost: What the run had done beyond the checkpoint that it was resumed from, as far as is known.
        last: The newest save.
    """

    on_save: OnSave | None = None
    grace_seconds: float = math.inf
    num_saves: int = 0
    num_failures: int = 0
    num_skipped: int = 0
    num_redone: int = 0
    blocked_seconds: float = 0.0
    lost: Mapping[str, Any] | None = None
    last: SaveRecord | None = None
    _started: float = field(default_factory=time.monotonic)

    @property
    def blocked_share(self) -> float:
        """The share of this process's time that training stood still for saving."""
        return self.blocked_seconds / max(time.monotonic() - self._started, 1e-9)

    def note(self, record: SaveRecord) -> None:
        """Count a save, log it, and tell whoever wants to know."""
        if self.last is None:
            self.compare_with_grace(record.write_seconds)
        self.num_saves += 1
        self.last = record
        _log.info(
            "saved %s: step %d, %d bytes, training blocked for %.2f ms, written in %.3f s (%.0f MB/s)",
            record.path.name,
            record.step,
            record.size_bytes,
            record.blocked_seconds * 1e3,
            record.write_seconds,
            record.megabytes_per_second,
        )
        if self.on_save is not None:
            self.on_save(record, self.to_plain())

    def compare_with_grace(self, write_seconds: float) -> None:
        """Say whether a save that takes so long can be made after a signal that asks to end."""
        warning = grace_warning(write_seconds, self.grace_seconds)
        if warning is not None:
            _log.warning("%s", warning)
        else:
            _log.info("a save takes %.2f s, the grace period is %g s", write_seconds, self.grace_seconds)

    def conclude(self) -> None:
        """Log the totals, if there are any: of several ranks the first counts the saves."""
        if not (self.num_saves or self.num_failures or self.num_skipped):
            return
        _log.info(
            "%d saves, %d failed, %d skipped, %d done again; training was blocked for %.3f s, %.2f %% of its"
            " time%s",
            self.num_saves,
            self.num_failures,
            self.num_skipped,
            self.num_redone,
            self.blocked_seconds,
            self.blocked_share * 100,
            f"; the last kill cost {self.lost['steps']} steps" if self.lost else "",
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form, as every checkpoint holds it of the saves before it."""
        return {
            "saves": self.num_saves,
            "failures": self.num_failures,
            "skipped": self.num_skipped,
            "redone": self.num_redone,
            "blocked_seconds": round(self.blocked_seconds, 6),
            "blocked_share": round(self.blocked_share, 8),
            "lost": None if self.lost is None else dict(self.lost),
            "last": None if self.last is None else self.last.to_plain(),
        }
