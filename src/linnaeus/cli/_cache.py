"""`linnaeus cache ls | verify | prune`: look after the cache."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.cli._tables import Rows
    from linnaeus.resolving import Cached, Eviction

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "GIB": 2**30, "MIB": 2**20}
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_INVALID = 6


class Size(click.ParamType[int]):
    """A number of bytes with a unit, such as 50GB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        told = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value))
        if told is None or told[2].upper() not in _UNITS:
            self.fail(f"{value!r} is no size such as 50GB.", param, ctx)
        return int(float(told[1]) * _UNITS[told[2].upper()])


class Duration(click.ParamType[float]):
    """A time with a unit, such as 30d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        told = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))
        if told is None:
            self.fail(f"{value!r} is no time such as 30d.", param, ctx)
        return float(told[1]) * _DURATIONS[told[2]]


@click.group("cache", help="Look after the cache, ENV.INPUT.CACHE_DIR.")
def cache() -> None:
    """Hold the commands."""


@command(
    "ls",
    summary="List the cache, least recently used first, with what is known of each file.",
    example="linnaeus cache ls",
)
def _ls(call: Call) -> None:
    from linnaeus import resolving

    files = resolving.cached_files(call.cfg.ENV.INPUT.CACHE_DIR)
    if call.as_json:
        call.out.json({"place": str(call.cfg.ENV.INPUT.CACHE_DIR), "files": [f.to_plain() for f in files]})
        return
    if files:
        call.out.show(_table(files))
    call.out.line(_total(files, call.cfg.ENV.INPUT.CACHE_DIR))


def _table(files: Sequence[Cached]) -> Rows:
    from linnaeus.cli._tables import FAINT, PROBLEM, Column, Row, Rows, cell

    columns = (Column("name"), Column("size", number=True), Column("sha256"), Column("from"))
    rows = [
        Row(
            (
                cell(file.path.name),
                cell(size_text(file.size_bytes)),
                cell((file.sha256 or "")[:12], FAINT),
                cell(file.source or "", FAINT),
            ),
            cell(file.problem, PROBLEM) if file.problem else None,
        )
        for file in files
    ]
    return Rows(columns, rows)


def _total(files: Sequence[Cached], place: Path) -> str:
    size = size_text(sum(file.size_bytes for file in files))
    return f"{_counted(files)}, {size}, in {place}"


def _counted(cached: Sequence[Cached]) -> str:
    """Return how many files and directories there are, for example "2 files and 1 directory"."""
    num_directories = sum(one.num_files is not None for one in cached)
    files = count_text(len(cached) - num_directories, "file")
    if not num_directories:
        return files
    directories = f"{num_directories:,} {'directory' if num_directories == 1 else 'directories'}"
    return f"{files} and {directories}" if len(cached) > num_directories else directories


@command(
    "verify",
    summary="Check every byte of every cached file; equal files then share their disk.\n\n"
    "Of a directory of shards every file is compared with the digest in its commit file.",
    example="linnaeus cache verify",
)
def _verify(call: Call) -> int:
    from linnaeus import resolving

    place = call.cfg.ENV.INPUT.CACHE_DIR
    findings = resolving.verify_cache(place)
    bad = [finding for finding in findings if finding.problem is not None]
    if call.as_json:
        plain = [
            {
                **f.cached.to_plain(),
                "ok": f.problem is None,
                "shared": f.shared,
                "problem": str(f.problem) if f.problem else None,
            }
            for f in findings
        ]
        call.out.json({"place": str(place), "files": plain})
    else:
        for finding in bad:
            call.out.error(str(finding.problem))
        saved = sum(f.cached.size_bytes for f in findings if f.shared)
        shared = f"; {size_text(saved)} saved by sharing" if saved else ""
        counted = _counted([finding.cached for finding in findings])
        call.out.line(f"{len(findings) - len(bad)} of {counted} whole in {place}{shared}")
    return _INVALID if bad else 0


@command(
    "prune",
    summary="Remove what was not used for long, and the least recently used while the cache is too large.\n\n"
    "Never what a process has open, and never what the config's lock file pins. A directory of shards goes"
    " whole.",
    example="linnaeus cache prune --max-size 50GB --older-than 30d --dry-run",
)
@click.option("--max-size", type=Size(), metavar="SIZE", help="How much may stay, for example 50GB.")
@click.option(
    "--older-than", type=Duration(), metavar="TIME", help="Remove what was not used for so long: 30d."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def _prune(call: Call, *, max_size: int | None, older_than: float | None, dry_run: bool) -> None:
    from linnaeus import resolving

    place = call.cfg.ENV.INPUT.CACHE_DIR
    if max_size is None and older_than is None:
        raise click.UsageError("give --max-size, --older-than, or both.", click.get_current_context())
    lock = call.cfg.ENV.INPUT.LOCK
    locked = resolving.read_lock(lock) if lock is not None else {}
    plan = resolving.plan_eviction(
        resolving.cached_files(place),
        max_bytes=max_size,
        older_than_seconds=older_than,
        now=time.time(),
        pinned={*locked, *(entry.sha256 for entry in locked.values())},
    )
    done = plan if dry_run else resolving.evict(plan)
    if not dry_run:
        resolving.drop_unfinished(place)
    _show(call, done, place, dry_run=dry_run)


def _show(call: Call, done: Sequence[Eviction], place: Path, *, dry_run: bool) -> None:
    if call.as_json:
        plain = [
            {
                "name": e.cached.path.name,
                "size_bytes": e.cached.size_bytes,
                "removed": e.removed,
                "reason": e.reason,
            }
            for e in done
        ]
        call.out.json({"place": str(place), "dry_run": dry_run, "files": plain})
        return
    gone = [item.cached for item in done if item.removed]
    for item in done:
        if item.removed:
            call.out.line(f"{item.cached.path.name} ({size_text(item.cached.size_bytes)}): {item.reason}")
    word = "would be removed" if dry_run else "removed"
    size = size_text(sum(cached.size_bytes for cached in gone))
    call.out.line(f"{_counted(gone)}, {size}, {word} of {len(done)} in {place}")


for _made in (_ls, _verify, _prune):
    cache.add_command(_made)
