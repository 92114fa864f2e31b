"""Copy a run's checkpoints to its bucket while it trains, and never make it wait.

One thread looks for what is missing at the bucket, has it sent by an rclone that gives way to all other
work, and looks again. What goes wrong is told once, tried again later, and told again at the end: which waits
for a bucket that can't be reached, but not for a name that is another's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from linnaeus.errors import LinnaeusError, RemoteConflictError, RemoteError, RemoteTimeoutError
from linnaeus.remote import Remote, Session, Transfer, open_remote
from linnaeus.runs import RunCheckpoint
from linnaeus.saving._copies import Copies, Waiting
from linnaeus.saving._retention import Retention

if TYPE_CHECKING:
    from linnaeus.config import Config, OutputBucketConfig

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 15.0
_MANY_WAITING = 2


class _Closed(Exception):  # noqa: N818 - no error: it is no longer waited for
    """The run has ended."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the bucket is behind the run's directory.

    Attributes:
        names: What has not arrived, the next to arrive first.
        num_bytes: Bytes of these.
        oldest_seconds: How long the oldest of them has been on disk.
        problem: What went wrong last; None when nothing has since something arrived.
    """

    names: tuple[str, ...]
    num_bytes: int
    oldest_seconds: float
    problem: LinnaeusError | None = None


class Mirror:
    """Keeps a run's place in a bucket up with its directory.

    Args:
        copies: The run's copies.
        bucket: Where they are.
        close_seconds: How long `close` waits.
        retry_seconds: How long to leave a bucket alone that failed.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        copies: Copies,
        bucket: OutputBucketConfig,
        *,
        close_seconds: float,
        retry_seconds: float = _RETRY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._copies = copies
        self._bucket = bucket
        self._close_seconds = close_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._changed = threading.Condition()
        # Up to which notice all has arrived; and all but what stands under others' names.
        self._noticed, self._settled, self._refused = 0, -1, -1
        self._waiting = Waiting(())
        self._problem: LinnaeusError | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    def remote(self) -> Remote | None:
        """Return the place with the copies, for a run that waits for it, as when it resumes."""
        return open_remote(self._bucket)

    def notice(self) -> None:
        """Say that there is something new in the directory; returns at once."""
        with self._changed:
            self._noticed += 1
            self._changed.notify_all()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._work, name="linnaeus-mirror", daemon=True)
                self._thread.start()
        self._tell_lag()

    def _tell_lag(self) -> None:
        lag = self.lag()
        if len(lag.names) >= _MANY_WAITING:
            _log.warning(
                "the bucket lags: %d checkpoints, %d bytes, the oldest for %.0f s%s",
                len(lag.names),
                lag.num_bytes,
                lag.oldest_seconds,
                f"; {lag.problem}" if lag.problem else "",
            )

    def lag(self) -> Lag:
        """Return how far the bucket is behind, as far as is known at this moment; asks nobody."""
        with self._changed:
            waiting, problem = self._waiting, self._problem
        oldest = [self._clock() - made for made in map(_made, waiting.checkpoints) if made is not None]
        names = tuple(checkpoint.path.name for checkpoint in waiting.checkpoints)
        return Lag(names, waiting.num_bytes, max(oldest, default=0.0), problem)

    def owed(self, local: Sequence[RunCheckpoint]) -> Mapping[str, str]:
        """Return which checkpoints must stay here since they may not have arrived, with the reason."""
        return self._copies.owed(local)

    def close(self, seconds: float | None = None) -> None:
        """Wait until all has arrived, but not for ever.

        Args:
            seconds: How long at most; None for as long as was said at first.

        Raises:
            RemoteError: Something has not arrived in time, or can't; the message says what, why, and how to
                send it.
        """
        allowed = self._close_seconds if seconds is None else seconds
        with self._changed:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._changed.wait_for(self._nothing_to_wait_for, allowed)
            settled, is_over = self._settled >= self._noticed, self._nothing_to_wait_for()
            self._closing = True
            self._changed.notify_all()
        if thread is not None:
            thread.join()
            if not settled:
                raise self._not_arrived("" if is_over else f" after {allowed:g} s")

    def _nothing_to_wait_for(self) -> bool:
        return max(self._settled, self._refused) >= self._noticed

    def _not_arrived(self, when: str) -> RemoteError:
        lag = self.lag()
        names = ", ".join(lag.names) or "what is new"
        why = f" ({lag.problem})" if lag.problem else ""
        kind = RemoteError if lag.problem else RemoteTimeoutError
        return kind(
            remote=self._copies.remote.place,
            operation="copying the run",
            tail=f"not there{when}: {names}, {lag.num_bytes:,} bytes{why}",
            advice=f"They are safe here. Send them: linnaeus push {self._copies.directory}",
        )

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        is_first = True
        while not self._is_closing():
            with self._changed:
                noticed = self._noticed
            try:
                self._catch_up(is_first=is_first)
            except _Closed:
                return
            except RemoteConflictError as error:  # all else has arrived
                self._failed(error, refused=noticed)
                continue
            except LinnaeusError as error:
                self._failed(error)
                continue
            except OSError as error:  # a file that was pruned this moment, a full disk, no more processes
                place = self._copies.remote.place
                self._failed(RemoteError(remote=place, operation="copying the run", tail=str(error)))
                continue
            is_first = False
            with self._changed:
                self._settled, self._problem = noticed, None
                self._changed.notify_all()
                while self._settled >= self._noticed and not self._closing:
                    self._changed.wait()

    def _catch_up(self, *, is_first: bool) -> None:
        """Send what is missing, one after the other; what became new meanwhile comes before what is old."""
        with self._copies.remote.session() as session:
            if is_first:
                self._copies.drop_unfinished()
            refused: dict[str, RemoteConflictError] = {}
            while True:
                waiting = self._look(session)
                possible = [c for c in waiting.checkpoints if c.name not in refused]
                if possible:
                    try:
                        self._copies.send(session, possible[0], self._go_on)
                    except RemoteConflictError as error:  # the others can arrive all the same
                        refused[possible[0].name] = error
                        continue
                self._copies.tidy(session)
                if not possible:
                    break
        for conflict in refused.values():
            raise conflict

    def _look(self, session: Session) -> Waiting:
        waiting = self._copies.missing(session)
        with self._changed:
            self._waiting = waiting
        return waiting

    def _go_on(self, _: Transfer) -> None:
        """End a transfer that nobody waits for any more; called twice a second."""
        if self._is_closing():
            raise _Closed

    def _is_closing(self) -> bool:
        with self._changed:
            return self._closing

    def _failed(self, error: LinnaeusError, *, refused: int | None = None) -> None:
        """Keep and tell what went wrong, and leave the bucket alone for a while.

        Args:
            error: What went wrong.
            refused: Up to which notice all but what was refused has arrived: what is newer does not rest.
        """
        with self._changed:
            is_news = str(error) != str(self._problem)
            self._problem, self._refused = error, -1 if refused is None else refused
            self._changed.notify_all()
        if is_news:
            _log.warning("the bucket is behind, tried again in %.0f s: %s", self._retry_seconds, error)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._is_outdated(refused), self._retry_seconds)

    def _is_outdated(self, refused: int | None) -> bool:
        return refused is not None and self._noticed > refused


def _made(checkpoint: RunCheckpoint) -> float | None:
    try:
        return checkpoint.path.stat().st_mtime
    except OSError:  # pruned here meanwhile
        return None


class NoMirror:
    """What keeps a run's copies when none are wanted: does nothing."""

    def notice(self) -> None:
        """Do nothing."""

    def owed(self, local: Sequence[RunCheckpoint]) -> Mapping[str, str]:
        """Return none: nothing is to arrive anywhere."""
        return {}

    def close(self, seconds: float | None = None) -> None:
        """Do nothing."""

    def remote(self) -> Remote | None:
        """Return None: there is no place with copies."""
        return None


def rules_there(cfg: Config) -> Retention:
    """Return which copies to keep in a run's bucket."""
    bucket, plan = cfg.ENV.OUTPUT.BUCKET, cfg.SCHEDULE.CHECKPOINT
    return Retention(
        bucket.KEEP_LAST_N,
        bucket.KEEP_TOP_N,
        bucket.KEEP_EVERY_N_EPOCHS,
        metric=plan.METRIC,
        mode=plan.MODE,
    )
