"""What `linnaeus ls` lists: a row and a JSON object for each checkpoint of a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.cli._format import metrics_text, size_text, time_text
from linnaeus.cli._tables import FAINT, GOOD, PROBLEM, Column, Row, Rows, cell
from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    UnsupportedFormatError,
)
from linnaeus.pth import SHARDED, describe, is_sharded, size_of
from linnaeus.remote import open_remote
from linnaeus.resolving import all_there
from linnaeus.runs import BEST_LINK, list_checkpoints

if TYPE_CHECKING:
    from rich.text import Text

    from linnaeus.config import BucketConfig, Config
    from linnaeus.remote import RemoteFile
    from linnaeus.runs import RunCheckpoint

_NAME = Column("name")
_SIZE = Column("size", number=True)
_EPOCH = Column("epoch", number=True, named=True)
_STEP = Column("step", number=True, named=True)
_RUN_COLUMNS = (_NAME, _EPOCH, _STEP, _SIZE, Column(""))
_COPY_COLUMNS = (_NAME, _EPOCH, _STEP, _SIZE, Column("run"), Column("state"))
_FILE_COLUMNS = (_NAME, _SIZE, Column("kind"), _EPOCH, _STEP)
_BUCKET_COLUMNS = (_NAME, _SIZE, Column("modified (UTC)"), Column("in cache", named=True))

# A pickled model asks for all its classes; a list of files has no room for so many.
_NUM_GLOBALS = 3
_CACHE_STYLES = {"yes": GOOD, "no": FAINT, "other size": "yellow"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint: its JSON object, and its row."""

    plain: dict[str, Any]
    row: Row


@dataclass(frozen=True, slots=True)
class Listing:
    """The checkpoints of a place; `place` is what to call it."""

    place: str
    columns: Sequence[Column]
    entries: Sequence[Entry]

    def table(self) -> Rows:
        """Return them as a table."""
        return Rows(self.columns, [entry.row for entry in self.entries])


def of_directory(directory: Path) -> Listing:
    """List a run by its directory or the one above it, newest first; else the directory's files."""
    for place in (directory, directory / "checkpoints"):
        found = list_checkpoints(place)
        if found:
            best = _target(place / BEST_LINK) or _target((place / BEST_LINK).with_suffix(SHARDED))
            entries = [_run_entry(checkpoint, best=checkpoint.path.name == best) for checkpoint in found]
            return Listing(str(place), _RUN_COLUMNS, entries)
    return of_files(directory)


def _target(link: Path) -> str | None:
    return str(link.readlink()) if link.is_symlink() else None


def _run_entry(checkpoint: RunCheckpoint, *, best: bool) -> Entry:
    problem = checkpoint.problem
    plain = {
        "name": checkpoint.path.name,
        "path": str(checkpoint.path.absolute()),
        "size_bytes": checkpoint.size_bytes,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "metrics": dict(checkpoint.metrics),
        "best": best,
        "problem": None if problem is None else str(problem),
    }
    cells = (
        _name(checkpoint.path.name, problem),
        cell(str(checkpoint.epoch)),
        cell(str(checkpoint.step) if checkpoint.step else ""),
        cell(size_text(checkpoint.size_bytes)),
        cell("best" if best else "", GOOD),
    )
    metrics = cell(metrics_text(checkpoint.metrics), FAINT) if checkpoint.metrics else None
    return Entry(plain, Row(cells, _remark(problem) or metrics))


def of_files(directory: Path) -> Listing:
    """List the files of a flat directory, such as the cache, whoever wrote them."""
    return Listing(str(directory), _FILE_COLUMNS, [_file_entry(path) for path in _visible_files(directory)])


def _visible_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    shown = (path for path in directory.iterdir() if not path.name.startswith("."))
    return sorted(path for path in shown if path.is_file() or (is_sharded(path) and not path.is_symlink()))


def _file_entry(path: Path) -> Entry:
    kind, about, problem = _looked_into(path)
    size_bytes = size_of(path)
    plain = {
        "name": path.name,
        "path": str(path.absolute()),
        "size_bytes": size_bytes,
        "kind": kind,
        "epoch": about.get("epoch"),
        "step": about.get("step"),
        "problem": None if problem is None else str(problem),
    }
    cells = (
        _name(path.name, problem),
        cell(size_text(size_bytes)),
        cell(kind or ""),
        _number(about.get("epoch")),
        _number(about.get("step")),
    )
    return Entry(plain, Row(cells, _remark(problem)))


def _looked_into(path: Path) -> tuple[str | None, dict[str, Any], CheckpointInvalidError | None]:
    """Return a file's kind, what it says of its run, and why it can't be used."""
    try:
        found = describe(path)
    except CheckpointInvalidError as error:
        return None, {}, error
    return found.kind, found.about, found.refusal()


def of_bucket(bucket: BucketConfig, cache_dir: Path) -> Listing:
    """List a bucket, its finished directories of shards too, and which of it are in the cache.

    Raises:
        RemoteError: The bucket refused, is not there, or can't be reached.
    """
    cached = {path.name: size_of(path) for path in _visible_files(cache_dir)}
    with open_remote(bucket).session() as session:
        there = sorted(all_there(session), key=lambda file: file.name)
        return Listing(session.place, _BUCKET_COLUMNS, [_remote_entry(file, cached) for file in there])


def of_copies(cfg: Config, directory: Path) -> Listing:
    """List what the place of a run in its bucket holds, and what of the run has not arrived.

    Raises:
        RemoteError: The bucket refused, is not there, or can't be reached.
    """
    from linnaeus.saving import copies_of, list_there

    copies = copies_of(cfg, directory)
    there = list_there(copies)
    names = {checkpoint.name for checkpoint, _, _ in there}
    absent = [c for c in list_checkpoints(directory) if c.name not in names]
    entries = [_copy_entry(c, "arrived" if here else "only there", ours=ours) for c, ours, here in there]
    entries += [_copy_entry(c, "only here", ours=True) for c in absent]
    return Listing(copies.remote.place, _COPY_COLUMNS, entries)


def _copy_entry(checkpoint: RunCheckpoint, state: str, *, ours: bool) -> Entry:
    plain = {
        "name": checkpoint.name,
        "size_bytes": checkpoint.size_bytes,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "metrics": dict(checkpoint.metrics),
        "run": checkpoint.run,
        "this_run": ours,
        "state": state,
        "problem": None if checkpoint.problem is None else str(checkpoint.problem),
    }
    cells = (
        _name(checkpoint.name, checkpoint.problem),
        cell(str(checkpoint.epoch)),
        cell(str(checkpoint.step) if checkpoint.step else ""),
        cell(size_text(checkpoint.size_bytes)),
        cell("this run" if ours else (checkpoint.run or "unknown")[:8], "" if ours else "yellow"),
        cell(state, GOOD if state == "arrived" else "yellow"),
    )
    metrics = cell(metrics_text(checkpoint.metrics), FAINT) if checkpoint.metrics else None
    return Entry(plain, Row(cells, _remark(checkpoint.problem) or metrics))


def _remote_entry(file: RemoteFile, cached: dict[str, int]) -> Entry:
    in_cache = "no"
    if file.name in cached:
        in_cache = "yes" if cached[file.name] == file.size_bytes else "other size"
    plain = {
        "name": file.name,
        "size_bytes": file.size_bytes,
        "modified": file.modified,
        "in_cache": in_cache,
    }
    cells = (
        cell(file.name),
        cell(size_text(file.size_bytes)),
        cell(time_text(file.modified)),
        cell(in_cache, _CACHE_STYLES[in_cache]),
    )
    return Entry(plain, Row(cells))


def _name(name: str, problem: CheckpointInvalidError | None) -> Text:
    return cell(name, PROBLEM if problem else "")


def _number(value: object) -> Text:
    return cell(str(value) if isinstance(value, int) else "")


def _remark(error: CheckpointInvalidError | None) -> Text | None:
    """Return a problem without the path and the advice, which stand elsewhere."""
    if error is None:
        return None
    if isinstance(error, UnsafeCheckpointError):
        more = len(error.globals) - _NUM_GLOBALS
        names = ", ".join(error.globals[:_NUM_GLOBALS]) + (f" and {more} more" if more > 0 else "")
        return cell(f"unsafe: asks for {names or error.problem}", PROBLEM)
    if isinstance(error, UnsupportedFormatError):
        return cell(f"not usable: {error.problem}: {error.found}", PROBLEM)
    kind = "damaged" if isinstance(error, CorruptCheckpointError) else "not usable"
    return cell(f"{kind}: {error.problem}", PROBLEM)
