"""When a save is due. Pure: the time is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Save at the ends of epochs, every so many steps, or every so many minutes; 0 switches a rule off.

    Attributes:
        interval_epochs: Save at the end of every n-th epoch.
        interval_steps: Save after every n-th optimizer step, counted over the whole run.
        interval_minutes: Save after a step when the last save is this long ago.
        last_epoch: The run's number of epochs, whose end is always saved; None when it is open.
    """

    interval_epochs: int = 1
    interval_steps: int = 0
    interval_minutes: float = 0
    last_epoch: int | None = None

    def due_at_step(self, step: int) -> bool:
        """Tell whether to save after optimizer step number `step` (counted from 1)."""
        return self.interval_steps > 0 and step % self.interval_steps == 0

    def due_by_time(self, seconds_since_save: float, best_seconds: float | None = None) -> bool:
        """Tell whether to save because of the time alone, also where no step is counted.

        Args:
            seconds_since_save: How long ago the last save was.
            best_seconds: The measured interval that loses least; None when it is not used or not known.
        """
        by_minutes = self.interval_minutes > 0 and seconds_since_save >= self.interval_minutes * 60
        return by_minutes or (best_seconds is not None and seconds_since_save >= best_seconds)

    def due_after_epoch(self, epoch: int) -> bool:
        """Tell whether to save when `epoch` epochs are completed."""
        return epoch == self.last_epoch or (self.interval_epochs > 0 and epoch % self.interval_epochs == 0)
