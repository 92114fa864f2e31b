"""Questions to the job's store that end: with an answer, or with an error.

torch's store waits for an answer without a limit, so when the way to it is cut, which nobody tells, a rank
would hang for as long as the system sends again. Questions are asked by a thread that may be left behind.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from linnaeus.distributed._store import Store

_T = TypeVar("_T")
_Questions = queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]] | None]


class NoAnswerError(RuntimeError):
    """Whoever was asked has not answered in time."""


class Asking:
    """A thread that asks one question after the other.

    Args:
        seconds: How long to wait for an answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._questions: _Questions = queue.SimpleQueue()
        self._is_silent = False
        threading.Thread(target=_work, args=(self._questions,), name="linnaeus-asking", daemon=True).start()
        weakref.finalize(self, self._questions.put, None)

    def ask(self, question: Callable[[], _T]) -> _T:
        """Return the answer.

        Raises:
            NoAnswerError: There was none in time, now or before.
            BaseException: What the question raised.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            if self._is_silent:
                raise queue.Empty
            self._questions.put((question, answers))
            answer, error = answers.get(timeout=self._seconds)
        except queue.Empty:
            self._is_silent = True
            raise NoAnswerError(f"no answer within {self._seconds:g} s") from None
        if error is not None:
            raise error
        return answer  # type: ignore[no-any-return]


def _work(questions: _Questions) -> None:
    while (asked := questions.get()) is not None:
        question, answers = asked
        try:
            answers.put((question(), None))
        except BaseException as error:  # noqa: BLE001 - raised where it was asked
            answers.put((None, error))


class AnsweringStore:
    """A connection to the store each of whose answers comes in time or is an error.

    Args:
        plain: The connection.
        seconds: How long to wait for an answer.
    """

    def __init__(self, plain: Store, seconds: float) -> None:
        self.plain, self._asking = plain, Asking(seconds)

    def set(self, key: str, value: str, /) -> None:
        """Set a key."""
        self._asking.ask(lambda: self.plain.set(key, value))

    def get(self, key: str, /) -> bytes:
        """Return the value of a key that is there."""
        return self._asking.ask(lambda: self.plain.get(key))

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return the values of keys that are there."""
        return self._asking.ask(lambda: self.plain.multi_get(keys))

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all of these are there."""
        return self._asking.ask(lambda: self.plain.check(keys))

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set a key that holds `expected`; return what it holds now."""
        return self._asking.ask(lambda: self.plain.compare_set(key, expected, desired))

    def delete_key(self, key: str, /) -> bool:
        """Remove a key."""
        return self._asking.ask(lambda: self.plain.delete_key(key))
