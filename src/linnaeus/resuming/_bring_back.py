"""Put the chosen checkpoint into the parts of a run, all of it or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.config import TrainConfig
from linnaeus.distributed import Group
from linnaeus.resuming._choose import Choice
from linnaeus.state import Progress, RunParts, own_share, restore, streams_read, tensors_in

_log = logging.getLogger(__name__)

_SHARED = frozenset({"model", "optimizer", "ema"})
_OPTIMIZING = frozenset({"optimizer", "lr_scheduler", "scaler"})


def bring_back(
    parts: RunParts, choice: Choice, train: TrainConfig, group: Group
) -> tuple[Progress, Mapping[str, float]]:
    """Restore a run.

    Args:
        parts: The run.
        choice: What to restore it from.
        train: Which parts the user wants fresh.
        group: The ranks that share the run, each of which restores what it has of it.

    Returns:
        How far the run has come, and what was measured in the epoch under way.

    Raises:
        CheckpointInvalidError: The file can't be read any more.
        ResumeMismatchError: The checkpoint holds other parts than this run; nothing was changed.
    """
    with pth.mapped_file(choice.path) as source:
        saved = source.content
        saved = saved if isinstance(saved, dict) and "model" in saved else {"model": saved}
        # What tells how a rank's own part is made is read first, and then only that part, where it belongs.
        source.ready(tensors_in(_read_first(saved, group)))
        own = own_share(parts, saved, str(choice.path), group.rank, group.world_size)
        missing = restore(
            parts,
            own,
            str(choice.path),
            complete="progress" in saved,
            skip=_left_alone(train),
            source=source,
        )
    progress = Progress.from_checkpoint(saved, choice.path)
    _log.info(
        "resumed from %s (%s): epoch %d, step %d", choice.path, choice.reason, progress.epoch, progress.step
    )
    if missing:
        _log.warning("%s holds no %s: these start fresh", choice.path.name, ", ".join(missing))
    return progress, _measured(saved) if progress.in_validation else {}


def needed_files(parts: RunParts, path: Path, group: Group) -> set[str]:
    """Return which files of a directory of shards this rank restores its run from; nothing is read.

    Raises:
        CheckpointInvalidError: It can't be read.
        ResumeMismatchError: It has other parameters.
    """
    with pth.mapped_file(path) as source:
        saved = source.content
        parted = {key: saved[key] for key in saved if key in _SHARED}
        own = own_share(parts, parted, str(path), group.rank, group.world_size)
        return source.files_of(tensors_in([own, _read_first(saved, group)]))


def _read_first(saved: Mapping[str, Any], group: Group) -> list[Any]:
    """Return what tells how a rank's own part is made, whatever that part is."""
    told = {key: saved[key] for key in saved if key not in _SHARED and key != "rng"}
    streams = saved.get("rng")
    ranks = group.rank, group.world_size
    return [told, [*streams_read(streams, *ranks)] if isinstance(streams, Mapping) else []]


def _measured(saved: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in saved.get("metrics", {}).items()}


def _left_alone(train: TrainConfig) -> frozenset[str]:
    """Return the parts that the user wants fresh instead of restored."""
    if train.RESUME_SKIP_OPTIMIZER:
        return _OPTIMIZING
    return frozenset() if train.PRESERVE_CHECKPOINT_SCHEDULE else frozenset({"lr_scheduler"})
