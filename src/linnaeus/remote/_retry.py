"""Try again what may succeed next time, waiting longer each time, and nothing else."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from linnaeus.errors import LinnaeusError, RemoteError, RemoteTimeoutError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to try, and how to wait between two tries.

    The wait before try n is drawn evenly from 0 to 0.5 s x 2^n, at most 30 s ("full jitter", so
    that many clients whom one failure hit do not come back together).

    Attributes:
        attempts: Tries altogether, at least one.
        sleep: Waits for a number of seconds.
        jitter: Returns a number between 0 and 1; not from the stream of `random`, which belongs to the run.
    """

    attempts: int
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = field(default=random.SystemRandom().random)

    def run(self, act: Callable[[int], T], worth_retrying: Callable[[LinnaeusError], bool]) -> T:
        """Call `act(attempt)` (counted from 1) until it returns, and return its value.

        Raises:
            LinnaeusError: What `act` raised, when that is not worth retrying or no try is left.
        """
        attempt = 1
        while True:
            try:
                return act(attempt)
            except LinnaeusError as error:
                if attempt >= self.attempts or not worth_retrying(error):
                    raise
                wait = self.jitter() * min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
                _log.info("try %d of %d failed, next in %.1f s: %s", attempt, self.attempts, wait, error)
            self.sleep(wait)
            attempt += 1


def worth_retrying(error: LinnaeusError) -> bool:
    """Tell whether an act that failed so may succeed the next time: not what is refused or missing."""
    return type(error) in (RemoteError, RemoteTimeoutError)
