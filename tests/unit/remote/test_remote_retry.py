"""Trying again: how often, how long between, and for what."""

import pytest

from linnaeus.errors import RemoteAuthError, RemoteError
from linnaeus.remote._retry import Retry


class Act:
    """Fails so many times, then returns "done"; remembers the numbers of its attempts."""

    def __init__(self, failures, error=RemoteError):
        self.failures, self.error, self.attempts = failures, error, []

    def __call__(self, attempt):
        self.attempts.append(attempt)
        if len(self.attempts) <= self.failures:
            raise self.error(remote="bucket b", operation="listing", attempts=attempt)
        return "done"


def run(act, *, attempts, jitter=1.0):
    """Return what became of the act, and the waits."""
    waits = []
    retry = Retry(attempts=attempts, sleep=waits.append, jitter=lambda: jitter)
    try:
        return retry.run(act, lambda error: type(error) is RemoteError), waits
    except RemoteError as error:
        return error, waits


def test_success_at_once_waits_for_nothing():
    """The first try is not delayed."""
    assert run(Act(0), attempts=4) == ("done", [])


def test_it_goes_on_until_it_succeeds():
    """Attempts are counted from one, and the value of the last is returned."""
    act = Act(2)
    assert run(act, attempts=4) == ("done", [0.5, 1.0])
    assert act.attempts == [1, 2, 3]


def test_the_last_failure_is_raised_when_no_try_is_left():
    """It tells how many attempts there were, and nobody waits after the last."""
    error, waits = run(Act(9), attempts=3)
    assert error.attempts == 3
    assert waits == [0.5, 1.0]


def test_waits_double_up_to_thirty_seconds():
    """A long outage is asked after twice a minute, not never."""
    _, waits = run(Act(99), attempts=10)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize("jitter", [0.0, 0.25])
def test_waits_are_spread_evenly_from_zero(jitter):
    """Clients that one failure hit do not come back together."""
    _, waits = run(Act(3), attempts=4, jitter=jitter)
    assert waits == [0.5 * jitter, 1.0 * jitter, 2.0 * jitter]


def test_what_will_not_mend_is_not_tried_again():
    """A refusal is raised at once."""
    act = Act(9, RemoteAuthError)
    error, waits = run(act, attempts=4)
    assert isinstance(error, RemoteAuthError)
    assert (act.attempts, waits) == ([1], [])


def test_foreign_exceptions_pass_through():
    """A bug is not retried."""
    waits = []
    with pytest.raises(ZeroDivisionError):
        Retry(attempts=3, sleep=waits.append).run(lambda attempt: attempt / 0, lambda error: True)
    assert waits == []


def test_the_real_jitter_is_a_share():
    """By default waits are random, between none and the whole."""
    drawn = {Retry(attempts=1).jitter() for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= share <= 1 for share in drawn)
