"""How far a run came: written now and then, to tell after a kill how much work it cost. Decides nothing."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from linnaeus.files import remove_file

_NAME = ".last_step"
_EVERY_SECONDS = 1.0
_LENGTH = 80


class Trace:
    """A small hidden file beside the checkpoints, as long as the run is under way."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._noted_at = time.monotonic()
        self._descriptor: int | None = None

    def note(self, step: int) -> None:
        """Note the step, at most once a second."""
        now = time.monotonic()
        if now - self._noted_at >= _EVERY_SECONDS:
            self._noted_at = now
            with contextlib.suppress(OSError):  # it is worth no failure
                self._write(json.dumps({"step": step, "time": time.time()}))

    def _write(self, text: str) -> None:
        """Write over what is there: of one length, in one call, which training hardly notices."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.pwrite(self._descriptor, text.ljust(_LENGTH).encode(), 0)

    def lost(self, step: int, saved_at: float | None) -> dict[str, Any] | None:
        """Return what the last process had done beyond a checkpoint, or None when it ended well.

        Args:
            step: The checkpoint's.
            saved_at: When it was saved, in seconds since 1970.
        """
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            steps, until = int(found["step"]) - step, float(found["time"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if steps < 0:
            return None
        return {"steps": steps, "seconds": None if saved_at is None else round(max(0.0, until - saved_at), 1)}

    def remove(self) -> None:
        """Forget it: the run ended well."""
        with contextlib.suppress(OSError):
            remove_file(self._path)
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._descriptor = None
