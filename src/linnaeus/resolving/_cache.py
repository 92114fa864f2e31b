"""Look after the cache: what is in it, whether it is whole, and what may go when room is needed.

Invariant: a directory of shards is there whole or not at all. It loses its name before the first of its files
goes, and what a killed process leaves of it is swept like a cut download.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError
from linnaeus.files import is_in_use, make_directory, remove_file, share_disk, take_over, temporary_name
from linnaeus.resolving._records import WORK_DIRECTORY, forget_record, note, record_of, sha256_of
from linnaeus.resolving._unfinished import unfinished

# What is read of a directory to tell what it holds.
_HEADS = (pth.COMMIT, pth.METADATA)


@dataclass(frozen=True, slots=True)
class Cached:
    """A file of the cache, or a directory of shards.

    Attributes:
        path: The file.
        size_bytes: Its length; of a directory, of all its files.
        used: When it was last read or written, in seconds since 1970, as the filesystem knows it; of a
            directory, the last of its files.
        sha256: In hex, where it is known; of a directory that of its commit file.
        source: Where it was fetched from, where that is known.
        num_names: How many names share its disk.
        inode: The same for names that do; None where that is not known, and for directories.
        num_files: How many files a directory has; None for a file.
        problem: What is visibly wrong with a directory; files are not looked into.
    """

    path: Path
    size_bytes: int
    used: float
    sha256: str | None
    source: str | None
    num_names: int
    inode: tuple[int, int] | None = None
    num_files: int | None = None
    problem: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.path.name,
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "used": self.used,
            "sha256": self.sha256,
            "source": self.source,
            "num_names": self.num_names,
            "kind": "file" if self.num_files is None else "directory",
            "num_files": self.num_files,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Eviction:
    """What becomes of a cached file, and why; `removed` tells whether it goes."""

    cached: Cached
    removed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of a cached file found; `problem` is None for a good one."""

    cached: Cached
    problem: CheckpointInvalidError | None
    shared: bool


def cached_files(cache_dir: Path) -> list[Cached]:
    """Return the cache's files and directories of shards, least recently used first.

    Links that people made are left alone, and so are directories of any other kind.
    """
    if not cache_dir.is_dir():
        return []
    own = [path for path in cache_dir.iterdir() if path.name[0] != "." and not path.is_symlink()]
    found = [_cached(path) for path in own if path.is_file()]
    found += [_cached_directory(path) for path in own if pth.is_sharded(path)]
    return sorted(found, key=lambda found: (found.used, found.path.name))


def _cached_directory(path: Path) -> Cached:
    files = _files_of(path)
    used = max(map(_used, files), default=path.stat().st_mtime)  # before the looking, which reads some
    sha256, source, problem = _told_of(path)
    return Cached(
        path,
        pth.size_of(path),
        used,
        sha256,
        source,
        1,
        num_files=len(files),
        problem=problem,
    )


def _told_of(path: Path) -> tuple[str | None, str | None, str | None]:
    """Return a directory's digest, where it is from, and what is visibly wrong with it."""
    known = record_of(path)
    source = known.source if known else None
    try:
        digest = known.sha256 if known else pth.digest_of(path)
        return digest, source, _lack(path)
    except CheckpointInvalidError as error:
        return None, source, error.problem


def _lack(path: Path) -> str | None:
    """Return what a directory visibly lacks to be a whole checkpoint."""
    told = pth.brief(path)
    if told is None:
        is_ours = path.suffix == pth.SHARDED
        return f"it has no {pth.COMMIT}, so it was never finished" if is_ours else None
    return f"{len(told.absent)} of its files are with other nodes" if told.absent else None


def _used(file: Path) -> float:
    """Return when a file was last used; of those that every listing reads, when it was written."""
    status = file.stat()
    return status.st_mtime if file.name in _HEADS else max(status.st_atime, status.st_mtime)


def _files_of(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_file()] if path.is_dir() else [path]


def _cached(path: Path) -> Cached:
    status, known = path.stat(), record_of(path)
    return Cached(
        path,
        status.st_size,
        max(status.st_atime, status.st_mtime),
        known.sha256 if known else None,
        known.source if known else None,
        status.st_nlink,
        (status.st_dev, status.st_ino),
    )


def verify_cache(cache_dir: Path) -> list[Finding]:
    """Check every byte of every checkpoint, record its SHA-256, and let equal files share their disk.

    Directories of shards share none. A recorded SHA-256 that no longer holds, of a file that looks untouched,
    is damage too: then the CRC-32s tell where.
    """
    first: dict[str, Path] = {}
    findings = []
    for cached in cached_files(cache_dir):
        problem = pth.verify(cached.path).error
        shared = False
        if problem is None and cached.num_files is not None:
            _note_directory(cached)
        elif problem is None:
            digest = sha256_of(cached.path)
            if (cache_dir / WORK_DIRECTORY).is_dir() and cached.sha256 is None:
                note(cached.path, digest, cached.source)
            shared = digest in first and share_disk(cached.path, first[digest])
            if shared:
                note(cached.path, digest, cached.source)
            first.setdefault(digest, cached.path)
        findings.append(Finding(cached, problem, shared))
    return findings


def _note_directory(cached: Cached) -> None:
    """Record that every byte of a directory was found to be what its digest stands for."""
    path = cached.path
    if cached.sha256 is not None and (path.parent / WORK_DIRECTORY).is_dir() and record_of(path) is None:
        note(path, cached.sha256, cached.source)


def plan_eviction(
    files: Sequence[Cached],
    *,
    max_bytes: int | None,
    older_than_seconds: float | None,
    now: float,
    pinned: Collection[str],
) -> list[Eviction]:
    """Return what to remove so that the rest fits, least recently used first. Pure.

    Args:
        files: The cache, least recently used first.
        max_bytes: How much may stay; None for no limit.
        older_than_seconds: What was not used for so long goes in any case; None for no such rule.
        now: In seconds since 1970.
        pinned: SHA-256 and names that stay whatever the rules say.
    """
    names = Counter(_disk(cached) for cached in files)
    total = sum({_disk(cached): cached.size_bytes for cached in files}.values())
    plan = []
    for cached in files:
        if cached.path.name in pinned or cached.sha256 in pinned:
            plan.append(Eviction(cached, removed=False, reason="pinned"))
        elif older_than_seconds is not None and now - cached.used > older_than_seconds:
            plan.append(Eviction(cached, removed=True, reason="not used for so long"))
        elif max_bytes is not None and total > max_bytes:
            plan.append(Eviction(cached, removed=True, reason="the cache is too large"))
        else:
            plan.append(Eviction(cached, removed=False, reason="fits"))
        names[_disk(cached)] -= plan[-1].removed
        total -= cached.size_bytes if plan[-1].removed and not names[_disk(cached)] else 0
    return plan


def _disk(cached: Cached) -> object:
    """Return what names of one file have in common: it is there once, and goes with the last of them."""
    return cached.inode or cached.path


def evict(plan: Sequence[Eviction]) -> list[Eviction]:
    """Remove what a plan says, but for what a live process has open; return what was done."""
    return [_evict(item) for item in plan]


def _evict(item: Eviction) -> Eviction:
    if not item.removed:
        return item
    path = item.cached.path
    if any(is_in_use(file) for file in _files_of(path)):
        return Eviction(item.cached, removed=False, reason="in use by a process")
    if path.is_dir():
        _remove_directory(path)
    else:
        remove_file(path)
    forget_record(path)
    return item


def _remove_directory(path: Path) -> None:
    """Take a directory's name away first, so that nobody sees half of it under that name."""
    work = path.parent / WORK_DIRECTORY
    make_directory(work)
    hidden = temporary_name(work / path.name)
    if take_over(path, hidden):
        shutil.rmtree(hidden)


def drop_unfinished(cache_dir: Path) -> int:
    """Remove what cut downloads have left to be gone on with; return how many there were."""
    work = cache_dir / WORK_DIRECTORY
    left = unfinished(work) if work.is_dir() else []
    for entry in left:
        shutil.rmtree(entry, ignore_errors=True)
    return len(left)
