"""Whether a save is due now: the schedule, the clock, and what saves were measured to cost."""

from __future__ import annotations

from collections.abc import Callable

from linnaeus.config import CheckpointScheduleConfig
from linnaeus.saving._account import Account
from linnaeus.saving._interval import interval_for
from linnaeus.saving._schedule import Schedule


class Timing:
    """Answers when to save; told when that was done.

    Args:
        plan: The section `SCHEDULE.CHECKPOINT`.
        last_epoch: The run's number of epochs.
        account: What saves have cost so far.
        clock: Seconds; should be monotonic, and may jump all the same.
    """

    def __init__(
        self,
        plan: CheckpointScheduleConfig,
        last_epoch: int,
        account: Account,
        clock: Callable[[], float],
    ) -> None:
        self._schedule = Schedule(
            plan.INTERVAL_EPOCHS, plan.INTERVAL_STEPS, plan.INTERVAL_MINUTES, last_epoch
        )
        self._mtbf_hours = plan.MTBF_HOURS if plan.INTERVAL == "auto" else None
        self._account = account
        self._clock = clock
        self._saved_at = clock()
        self._is_measured = False

    def saved(self) -> None:
        """Begin to count from now."""
        self._saved_at = self._clock()
        self._is_measured = True

    def restart(self) -> None:
        """Begin to count from now, although nothing was saved."""
        self._saved_at = self._clock()

    def due_at_step(self, step: int) -> bool:
        """Tell whether to save after this optimizer step because of its number, whatever the time."""
        return self._schedule.due_at_step(step)

    def due_after_epoch(self, epoch: int) -> bool:
        """Tell whether to save when so many epochs are completed."""
        return self._schedule.due_after_epoch(epoch)

    def due_by_time(self) -> bool:
        """Tell whether to save because of the time alone."""
        return self._schedule.due_by_time(self._seconds(), self._best_seconds())

    def _seconds(self) -> float:
        seconds = float(self._clock() - self._saved_at)
        if seconds < 0:  # a clock that was set back: count from here
            self._saved_at, seconds = self._clock(), 0.0
        return seconds

    def _best_seconds(self) -> float | None:
        if self._mtbf_hours is None or (self._account.last is None and self._is_measured):
            return None  # not wanted; or the first save is still under way
        return interval_for(self._account.last, self._mtbf_hours)
