"""Whether saves copy the state first: for a while after it was changed in a way that nobody announced.

A copy can't be torn, but training waits for it. Who changed a state once may do so at every save (weights
clipped by hand after each step), or never again (weights loaded once). So saving without a copy is tried
again after ten good saves, then after twenty, forty, and so on: of n saves about log2(n / 10) are torn and
done again, which is next to none, and a run that changed once is back after ten.
"""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_NUM_SAVES = 10


@dataclass(slots=True)
class Copying:
    """How many saves are still to copy first."""

    _num_left: int = 0
    _num_next: int = _FIRST_NUM_SAVES

    @property
    def is_on(self) -> bool:
        """Whether the next save copies."""
        return self._num_left > 0

    def begin(self) -> int:
        """Copy from now on; return for how many saves."""
        self._num_left, self._num_next = self._num_next, 2 * self._num_next
        return self._num_left

    def saved(self) -> None:
        """Count a good save."""
        self._num_left = max(0, self._num_left - 1)
