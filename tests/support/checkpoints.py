"""Entries of a run's listing, made by hand."""

from __future__ import annotations

from pathlib import Path

from linnaeus.errors import CorruptCheckpointError
from linnaeus.runs import RunCheckpoint, checkpoint_name


def entry(
    epoch: int,
    step: int | None = None,
    loss: float | None = None,
    *,
    damaged: bool = False,
    pinned: bool = False,
    hours: float | None = None,
    resumed_from: str | None = None,
) -> RunCheckpoint:
    """Return a listed checkpoint; with a step, one from inside an epoch."""
    name = checkpoint_name(epoch, step)
    return RunCheckpoint(
        path=Path("/run") / name,
        epoch=epoch,
        step=step if step is not None else epoch * 10,
        metrics={} if loss is None else {"loss": loss},
        ends_epoch=step is None,
        is_pinned=pinned,
        saved_at=None if hours is None else hours * 3600,
        resumed_from=resumed_from,
        problem=CorruptCheckpointError(path=name, problem="cut short") if damaged else None,
    )
