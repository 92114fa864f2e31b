"""For how long saves copy the state after it was changed unannounced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from linnaeus.saving._copying import Copying


def test_without_a_reason_nothing_is_copied() -> None:
    """A run whose state holds still never waits for a copy."""
    copying = Copying()
    copying.saved()
    assert not copying.is_on


def test_after_one_change_ten_saves_copy() -> None:
    """Then saving without a copy is tried again."""
    copying = Copying()
    assert copying.begin() == 10
    for _ in range(10):
        assert copying.is_on
        copying.saved()
    assert not copying.is_on


@given(st.integers(1, 5000))
def test_a_run_that_always_changes_is_rarely_torn(num_saves: int) -> None:
    """Of many saves few are done twice: their number grows with the logarithm."""
    copying, num_torn = Copying(), 0
    for _ in range(num_saves):
        if not copying.is_on:
            copying.begin()
            num_torn += 1
        copying.saved()
    assert 10 * (2 ** (num_torn - 1) - 1) < num_saves
