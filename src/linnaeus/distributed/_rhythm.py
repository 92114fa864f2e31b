"""What some rank may come to wish at any time, such as a save, done by all at one agreed step.

Ranks ask each other only every so many steps, about once a second; which steps those are is agreed on too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from linnaeus.distributed._group import Group

_SECONDS = 1.0


class Rhythm:
    """Decides at which steps ranks ask each other.

    Args:
        group: All ranks; alone, a wish is granted at once.
        clock: Returns seconds, monotonic; rank 0's counts.
        seconds: About how long a wish may take to be granted.
    """

    def __init__(self, group: Group, clock: Callable[[], float], *, seconds: float = _SECONDS) -> None:
        self._group, self._clock, self._seconds = group, clock, seconds
        self._next: int | None = None
        self._asked: tuple[int, float] | None = None
        self._wish = 0

    def strongest(self, step: int, wish: int) -> int:
        """Return the largest wish of any rank, 0 when ranks do not ask each other at this step.

        Args:
            step: The step's number, the same on every rank.
            wish: What this rank wishes, 0 for nothing; remembered until ranks ask each other.

        Raises:
            PeerFailedError: Some rank did not come to the agreed step.
        """
        if self._group.world_size == 1:
            return wish
        self._wish = max(self._wish, wish)
        if self._next is not None and step < self._next:
            return 0
        granted, self._next = self._group.agree(
            f"asking all ranks at step {step}",
            lambda: self._wish,
            merge=max,
            conclude=lambda strongest: [strongest, step + self._num_steps(step)],
        )
        self._wish = 0
        return int(granted)

    def _num_steps(self, step: int) -> int:
        """Return after how many steps to ask again; on rank 0."""
        now, before = self._clock(), self._asked
        self._asked = (step, now)
        if before is None or step <= before[0]:
            return 1
        per_step = max((now - before[1]) / (step - before[0]), 1e-6)
        return max(1, math.floor(self._seconds / per_step))
