"""Bring one large file here over several streams at once, going on where an earlier try was cut.

Threads take spans of the file from a queue and write what comes to its place; the calling thread follows
behind them and computes the digests, so that these are ready when the last byte is.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from linnaeus.errors import LinnaeusError, RemoteTimeoutError
from linnaeus.remote._journal import Journal, Span
from linnaeus.remote._protocol import Progress, RemoteFile, Session, Transfer
from linnaeus.remote._retry import Retry, worth_retrying

_PIECE_BYTES = 1 << 20
# A try that brought so much was no failure of the same kind as the one before.
_FRESH_BYTES = 1 << 20
_REPORT_SECONDS = 0.5


class _Stopped(Exception):  # noqa: N818 - no error: another thread has failed
    """This stream is no longer wanted."""


class Download:
    """One file on its way.

    Args:
        session: Where it comes from.
        known: The file there.
        directory: Where it is made, and what an earlier try left of it.
        num_streams: How many spans come at the same time.
        retry: How often a span is tried without progress.
        total_seconds: How long it may take altogether; None for no limit.
        progress: Called twice a second.
    """

    def __init__(
        self,
        session: Session,
        known: RemoteFile,
        directory: Path,
        *,
        num_streams: int,
        retry: Retry,
        total_seconds: float | None,
        progress: Progress | None,
    ) -> None:
        self._session = session
        self._known = known
        self._journal = Journal(directory, known, num_streams)
        self._num_streams = num_streams
        self._retry = retry
        self._deadline = None if total_seconds is None else time.monotonic() + total_seconds
        self._progress = progress
        self._waiting = deque(span for span in self._journal.spans if not span.is_done)
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    @property
    def path(self) -> Path:
        """The file, whole once `run` has returned."""
        return self._journal.data

    @property
    def resumed_bytes(self) -> int:
        """How much of it an earlier try had brought."""
        return self._journal.resumed_bytes

    def run(self, algorithms: Sequence[str]) -> Mapping[str, str]:
        """Bring what is missing and return the whole file's digests in hex.

        Raises:
            RemoteError: A span could not be had; what came is kept.
            OSError: The disk did not take it.
        """
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._num_streams)]
        with self._journal:
            for thread in threads:
                thread.start()
            try:
                return self._digest([hashlib.new(name, usedforsecurity=False) for name in algorithms])
            except BaseException as error:
                self._fail(error)
                self._session.stop()  # a stream that waits for bytes would be waited for
                raise
            finally:
                for thread in threads:
                    thread.join()

    def _digest(self, digests: Sequence[hashlib._Hash]) -> Mapping[str, str]:
        buffer = memoryview(bytearray(_PIECE_BYTES))
        reporter = _Reporter(self._known, self._journal.spans, self._progress)
        for span in self._journal.spans:
            at = span.start
            while at < span.stop:
                self._wait_beyond(span, at, reporter)
                count = self._journal.read_into(buffer[: min(_PIECE_BYTES, span.position - at)], at)
                for digest in digests:
                    digest.update(buffer[:count])
                at += count
        reporter.report()
        return {digest.name: digest.hexdigest() for digest in digests}

    def _wait_beyond(self, span: Span, at: int, reporter: _Reporter) -> None:
        with self._changed:
            while self._failure is None and span.position <= at:
                self._changed.wait(_REPORT_SECONDS)
                reporter.report_if_due()
                self._check_deadline()
            if self._failure is not None:
                raise self._failure
        reporter.report_if_due()

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise RemoteTimeoutError(
                remote=self._session.place,
                operation=f"download of {self._known.name}",
                tail="not done within the total deadline",
                advice="Try again: it goes on where it was. Or raise the bucket's TOTAL_TIMEOUT_SECONDS.",
            )

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._failure is not None or not self._waiting:
                        return
                    span = self._waiting.popleft()
                self._journal.touch()
                self._bring(span)
        except _Stopped:
            return
        except (LinnaeusError, OSError) as error:
            self._fail(error)

    def _bring(self, span: Span) -> None:
        """Bring one span, however often its connection breaks, as long as it moves."""
        while not span.is_done:
            before = span.done
            try:
                self._retry.run(partial(self._try, span), partial(self._again, span, before))
            except LinnaeusError as error:
                if not worth_retrying(error) or span.done - before < _FRESH_BYTES or self._failure:
                    raise

    def _again(self, span: Span, before: int, error: LinnaeusError) -> bool:
        return worth_retrying(error) and self._failure is None and span.done - before < _FRESH_BYTES

    def _try(self, span: Span, attempt: int) -> None:
        def take(piece: memoryview, offset: int) -> None:
            if self._failure is not None:
                raise _Stopped
            self._journal.write(span, piece, offset)
            with self._changed:
                self._changed.notify()

        self._session.stream(self._known.name, span.position, span.stop, take, attempts=attempt)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify()


class _Reporter:
    """Tells how far a download is, twice a second.

    Args:
        known: What is on its way.
        spans: Its parts.
        progress: Whom to tell.
        clock: Returns seconds, monotonic.
    """

    def __init__(
        self,
        known: RemoteFile,
        spans: Sequence[Span],
        progress: Progress | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._spans = spans
        self._progress = progress
        self._clock = clock
        self._began, self._told = clock(), clock()
        self._had = self._done()

    def _done(self) -> int:
        return sum(span.done for span in self._spans)

    def report_if_due(self) -> None:
        if self._clock() - self._told >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        if self._progress is None:
            return
        self._told, done = self._clock(), self._done()
        rate = (done - self._had) / max(self._told - self._began, 1e-3)
        self._progress(Transfer(self._known.name, done, self._known.size_bytes, rate))
