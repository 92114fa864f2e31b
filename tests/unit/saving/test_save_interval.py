"""How often to save, against the expected run time itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from linnaeus.saving import SaveRecord, best_interval_seconds, interval_for


def expected_time(interval: float, cost: float, mtbf: float) -> float:
    """Return the expected wall time for a unit of work (Daly 2006, equation 20, without restart time)."""
    return mtbf * math.expm1((interval + cost) / mtbf) / interval


@pytest.mark.parametrize("cost", [0.01, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("mtbf", [3600.0, 86400.0])
def test_no_other_interval_loses_less(cost: float, mtbf: float) -> None:
    """The formula's interval is within a thousandth of the best that a search finds."""
    best = min(expected_time(math.exp(x / 200), cost, mtbf) for x in range(-400, 2600))
    assert expected_time(best_interval_seconds(cost, mtbf), cost, mtbf) <= best * 1.001


def test_what_can_never_pay_is_left_out() -> None:
    """Where a save takes longer than the machine lasts, the interval is that time itself."""
    assert best_interval_seconds(1e6, 3600) == 3600


def record(blocked: float, write: float) -> SaveRecord:
    """Return a save that took so long."""
    return SaveRecord(Path("x.pth"), 1, 10**6, blocked_seconds=blocked, write_seconds=write)


def test_the_first_save_is_made_at_once_to_know_the_cost() -> None:
    """Nothing known means now; and saves never have to wait for each other."""
    assert interval_for(None, 24) == 0
    assert interval_for(record(0.0, 10.0), 24) == 20.0
    assert interval_for(record(1.0, 1.0), 24) == pytest.approx(math.sqrt(2 * 86400), rel=0.01)
