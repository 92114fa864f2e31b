"""Signals that ask for a checkpoint: noted when they come, obeyed where training can.

Invariant: a handler only notes. The first signal that asks to end also gives all such signals back to the
system, so that a second one ends the process at once, wherever it is.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from types import FrameType

_log = logging.getLogger(__name__)


class StoppedBySignal(SystemExit):
    """Ends the program after its state was saved, with the status that a shell gives to that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


# What a process may wish for at any time; a signal's number is added for an end.
SAVE = 1


class SignalWatch:
    """Notes signals from `start` to `stop`.

    A signal that the program handles itself is left to it.

    Args:
        exit_names: Those that ask to save and end.
        save_names: Those that ask to save and go on.
    """

    def __init__(self, exit_names: Sequence[str], save_names: Sequence[str]) -> None:
        self.exit_asked: int | None = None
        self._save_asked = False
        self._acts = {signal.Signals[name]: self._note_save for name in save_names}
        self._acts |= {signal.Signals[name]: self._note_exit for name in exit_names}
        self._before: dict[signal.Signals, object] = {}
        self._is_watching = False

    def start(self) -> None:
        """Begin to watch; nothing happens where it was begun, and in other threads than the main one."""
        if self._is_watching or threading.current_thread() is not threading.main_thread():
            return
        self._is_watching = True
        for number, act in self._acts.items():
            handler = signal.getsignal(number)
            if _is_default(handler):
                self._before[number] = _beneath(handler, number)
                signal.signal(number, act)
            else:
                _log.info("%s is handled by this program itself, and left to it", number.name)

    def stop(self) -> None:
        """Give the signals back."""
        self._is_watching = False
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._acts[number]:
                signal.signal(number, handler)  # type: ignore[arg-type] # what getsignal returned
        self._before = {}

    def wish(self, *, by_time: bool) -> int:
        """Return what this process wishes: 0 for nothing, `SAVE`, or `SAVE` and a signal's number for an end.

        Args:
            by_time: Whether it wishes to save without a signal too.
        """
        save = self.take_save() or by_time
        return SAVE * save if self.exit_asked is None else SAVE + self.exit_asked

    def take_save(self) -> bool:
        """Tell whether a save was asked for, once."""
        asked, self._save_asked = self._save_asked, False
        return asked

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self._save_asked = True

    def _note_exit(self, number: int, frame: FrameType | None) -> None:
        self.exit_asked = number
        for one, act in self._acts.items():
            if act == self._note_exit and one in self._before:
                signal.signal(one, signal.SIG_DFL)


def _is_default(handler: object) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler) or _is_ours(handler)


def _beneath(handler: object, number: signal.Signals) -> object:
    """Return what was there before any watch."""
    return handler.__self__._before.get(number, signal.SIG_DFL) if _is_ours(handler) else handler  # type: ignore[attr-defined]


def _is_ours(handler: object) -> bool:
    """Tell whether it belongs to a watch of a run that was not closed."""
    return isinstance(getattr(handler, "__self__", None), SignalWatch)
