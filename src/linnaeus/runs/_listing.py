"""Which checkpoints a run's directory holds, and what each says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError
from linnaeus.runs._names import LATEST_LINK, numbers_in_name
from linnaeus.runs._pins import is_pinned

_SPELLED = ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """One checkpoint of a run.

    Attributes:
        path: The file, or the directory of shards.
        epoch: Completed epochs, from the file itself where it can be read, else from its name.
        step: Optimizer steps, likewise.
        metrics: What was measured when it was saved.
        size_bytes: Of the file.
        ends_epoch: Whether it was saved at the end of an epoch.
        lineage: Where its run's weights come from, as the run said.
        saved_at: When it was saved, in seconds since 1970; None when it does not say.
        resumed_from: The name of the file that the process which saved it had gone on from.
        run: The id of the run that wrote it, where it is told.
        is_pinned: Whether the user wants it kept.
        write_seconds: How long the save before it took, as far as its run knew.
        problem: Why it can't be used; None for a file whose structure is whole.
        num_directories: Into how many directories, of nodes that share none, it was written.
        absent: The files that are in another one of these.
    """

    path: Path
    epoch: int
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    size_bytes: int = 0
    ends_epoch: bool = True
    lineage: Mapping[str, Any] = field(default_factory=dict)
    saved_at: float | None = None
    resumed_from: str | None = None
    run: str | None = None
    is_pinned: bool = False
    write_seconds: float | None = None
    problem: CheckpointInvalidError | None = None
    num_directories: int = 1
    absent: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def is_usable(self) -> bool:
        """Whether its structure is whole."""
        return self.problem is None

    @property
    def is_part(self) -> bool:
        """Whether other nodes have the rest of it."""
        return bool(self.absent)

    @property
    def order(self) -> tuple[int, int]:
        """What newer and older is decided by."""
        return self.epoch, self.step

    @property
    def source(self) -> str | None:
        """What its run was resumed from at its start, as the user named it."""
        named = self.lineage.get("resumed_from")
        return named if isinstance(named, str) else None

    def metric(self, name: str) -> float | None:
        """Return a metric, or None when it was not measured or is not a number."""
        value = self.metrics.get(name)
        return None if value is None or math.isnan(value) else value


def list_checkpoints(directory: Path) -> list[RunCheckpoint]:
    """Return a run's checkpoints, newest first; also those that are damaged, with their problem.

    Links and files of other names are not looked at. A directory that is not there holds none.
    """
    if not directory.is_dir():
        return []
    named = [entry for entry in directory.iterdir() if numbers_in_name(entry.name)]
    found = [entry for entry in named if _is_one(entry) and not entry.is_symlink()]
    return sorted(
        (read_checkpoint(path) for path in found),
        key=lambda found: (found.order, found.path.name),
        reverse=True,
    )


def _is_one(entry: Path) -> bool:
    return entry.is_dir() if entry.suffix == pth.SHARDED else entry.is_file()


def read_checkpoint(path: Path) -> RunCheckpoint:
    """Return what one checkpoint, of any name, says of itself."""
    try:
        found = pth.brief(path)
        read = _other(path) if found is None else _ours(path, found)
    except CheckpointInvalidError as error:
        epoch, step = numbers_in_name(path.name) or (0, 0)
        size_bytes = pth.size_of(path)
        read = RunCheckpoint(path, epoch, step, size_bytes=size_bytes, ends_epoch=False, problem=error)
    return replace(read, is_pinned=True) if is_pinned(path) else read


def checkpoint_of(path: Path, found: pth.Description) -> RunCheckpoint:
    """Return what a description says of a checkpoint, wherever the file itself is."""
    if "linnaeus" not in found.written:
        return _told_by_other(path, found)
    return _ours(path, pth.Brief(found.size_bytes, found.about, found.written))


def _ours(path: Path, found: pth.Brief) -> RunCheckpoint:
    about = found.about
    epoch, step = numbers_in_name(path.name) or (0, 0)
    return RunCheckpoint(
        path=path,
        epoch=_integer(about.get("epoch"), epoch, 0),
        step=_integer(about.get("step"), step, 0),
        metrics=_numbers(about.get("metrics")),
        size_bytes=found.size_bytes,
        ends_epoch=about.get("step_in_epoch", 0) == 0 and path.name != LATEST_LINK,
        lineage=about["lineage"] if isinstance(about.get("lineage"), Mapping) else {},
        saved_at=_seconds(found.written.get("created")),
        resumed_from=about["resumed_from"] if isinstance(about.get("resumed_from"), str) else None,
        write_seconds=_write_seconds(about.get("saving")),
        run=about["run"] if isinstance(about.get("run"), str) else None,
        num_directories=found.num_directories,
        absent=found.absent,
    )


def _write_seconds(saving: object) -> float | None:
    last = saving.get("last") if isinstance(saving, Mapping) else None
    seconds = last.get("write_seconds") if isinstance(last, Mapping) else None
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _other(path: Path) -> RunCheckpoint:
    """Return what a file that another program or an earlier version wrote tells."""
    return _told_by_other(path, pth.describe(path))


def _told_by_other(path: Path, found: pth.Description) -> RunCheckpoint:
    epoch, step = numbers_in_name(path.name) or (0, 0)
    about = found.about
    earlier = "iteration" in about or "training_progress" in found.keys or path.name.startswith("ckpt_")
    return RunCheckpoint(
        path=path,
        epoch=_integer(about.get("epoch"), epoch, 1 if earlier else 0),
        step=_integer(about.get("step", about.get("iteration")), step, 0),
        metrics=_numbers(about.get("metrics")),
        size_bytes=found.size_bytes,
        ends_epoch=about.get("step_in_epoch", 0) == 0 and path.name != LATEST_LINK,
        problem=found.refusal(),
    )


def _seconds(created: object) -> float | None:
    """Return a time as the description spells it in seconds since 1970."""
    try:
        return datetime.fromisoformat(created).timestamp() if isinstance(created, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _integer(value: object, otherwise: int, shift: int) -> int:
    return value + shift if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    # Numbers that JSON has not are spelled "NaN", "Infinity" and "-Infinity".
    return {str(k): float(v) for k, v in value.items() if isinstance(v, (int, float)) or v in _SPELLED}
