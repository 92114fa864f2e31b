"""When a save is due."""

from __future__ import annotations

import pytest

from linnaeus.saving import Schedule


@pytest.mark.parametrize(
    ("every", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6]), (7, [])]
)
def test_steps(every: int, due: list[int]) -> None:
    """Every n-th step over the whole run is due; 0 switches the rule off."""
    schedule = Schedule(interval_epochs=0, interval_steps=every)
    assert [step for step in range(1, 7) if schedule.due_at_step(step)] == due


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [
        (0, None, []),
        (1, None, [1, 2, 3, 4, 5]),
        (2, None, [2, 4]),
        (2, 5, [2, 4, 5]),
        (0, 4, [4]),
        (9, 3, [3]),
    ],
)
def test_epochs(every: int, last: int | None, due: list[int]) -> None:
    """Every n-th epoch is due, and the last one in any case."""
    schedule = Schedule(interval_epochs=every, last_epoch=last)
    assert [epoch for epoch in range(1, 6) if schedule.due_after_epoch(epoch)] == due


@pytest.mark.parametrize(
    ("minutes", "seconds", "due"), [(0, 1e9, False), (2, 119.9, False), (2, 120, True), (0.5, 30, True)]
)
def test_minutes(minutes: float, seconds: float, due: bool) -> None:
    """A step is due when the last save is long enough ago; 0 switches the rule off."""
    assert Schedule(interval_minutes=minutes).due_by_time(seconds) is due


def test_either_rule_suffices() -> None:
    """Steps and minutes are separate reasons."""
    schedule = Schedule(interval_steps=10, interval_minutes=1)
    assert schedule.due_at_step(10)
    assert schedule.due_by_time(60)
    assert not schedule.due_by_time(59)
