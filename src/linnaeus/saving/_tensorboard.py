"""What saving costs, as curves: `pip install 'linnaeus[tensorboard]'`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from linnaeus.saving._account import SaveRecord


class ScalarWriter(Protocol):
    """What takes numbers by name and step; `torch.utils.tensorboard.SummaryWriter` is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Take one number."""


class TensorBoardCallback:
    """Writes each save's numbers to TensorBoard; give it to `CheckpointManager(on_save=...)`.

    Args:
        writer: Where to; opened and closed by whoever made it.
    """

    def __init__(self, writer: ScalarWriter) -> None:
        self._writer = writer

    def __call__(self, record: SaveRecord, totals: Mapping[str, Any]) -> None:
        """Write the numbers of one save, and the totals so far."""
        own = record.to_plain()
        for name in ("size_bytes", "blocked_ms", "write_seconds", "mb_per_second"):
            self._writer.add_scalar(f"saving/{name}", own[name], record.step)
        for name in ("blocked_share", "saves", "failures", "skipped", "redone"):
            self._writer.add_scalar(f"saving/{name}", totals[name], record.step)
