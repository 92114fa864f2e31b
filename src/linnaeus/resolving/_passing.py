"""A checkpoint of one rank handed to other ranks, each of which checks it and publishes it as a download is.

It is a file, or a directory of shards; of a directory, some files may be handed on alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.resolving._passing_directory import DirectorySource, arriving_directory, arriving_files
from linnaeus.resolving._passing_file import Bystander, End, FileSource, arriving_file
from linnaeus.resolving._records import note
from linnaeus.resolving._sharing import Job


def facts_of(path: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return what a rank tells the others of a checkpoint that it has, JSON values, for `pass_on`.

    Args:
        path: A file, or a directory of shards.
        names: Which files of a directory; None for all. Only these need be there.

    Raises:
        CheckpointInvalidError: It is a directory that lacks one of them, or whose commit file is damaged.
    """
    if not path.is_dir():
        status = path.stat()
        return {"name": path.name, "size_bytes": status.st_size, "modified": str(status.st_mtime_ns)}
    sums = pth.sums_of(path, names)
    files = [[name, *one.to_plain()] for name, one in sums.items()]
    return {"name": path.name, "size_bytes": sum(one.size_bytes for one in sums.values()), "files": files}


def pass_on(
    job: Job,
    what: str,
    members: Sequence[int],
    told: dict[str, Any],
    path: Path,
    *,
    expected: str | None = None,
    is_cache: bool = True,
) -> None:
    """Hand a file, or a whole directory, of one rank to some others; call it on every rank.

    Args:
        job: All ranks.
        what: What it is for, for messages.
        members: The ranks that take part; the first has it.
        told: What that one told of it, by `facts_of`.
        path: Where it is, or goes, on this rank. What stands there by then is not replaced.
        expected: The SHA-256 that it must have; of a directory, its commit file.
        is_cache: Whether it goes into a cache, which keeps a record of what it holds.

    Raises:
        LinnaeusError: What was raised on any rank, on every rank.
        PeerFailedError: A rank is gone.
    """

    def opened(what: str) -> AbstractContextManager[End]:
        if "files" in told:
            return arriving_directory(told, path, what, expected)
        return arriving_file(told, path, what, expected)

    def published(sha256: str | None) -> None:
        if is_cache and sha256 is not None:
            note(path, sha256, f"rank {members[0]}")

    _pass(job, what, members, told, path, opened, published)


def pass_files(job: Job, what: str, members: Sequence[int], told: dict[str, Any], directory: Path) -> None:
    """Hand some files of one rank's directory to some others; call it on every rank.

    Each file arrives under its name when it is whole, on disk and has its digest; one of that name is
    replaced. What becomes of the directory is the caller's business.

    Args:
        job: All ranks.
        what: What it is for, for messages.
        members: The ranks that take part; the first has the files.
        told: What that one told of them, by `facts_of(its directory, names)`.
        directory: Where they are, or go, on this rank; made where it is missing.

    Raises:
        LinnaeusError: What was raised on any rank, on every rank.
        PeerFailedError: A rank is gone.
    """

    def opened(what: str) -> AbstractContextManager[End]:
        return contextlib.nullcontext(arriving_files(told, directory, what))

    _pass(job, what, members, told, directory, opened, lambda _: None)


def _pass(
    job: Job,
    what: str,
    members: Sequence[int],
    told: dict[str, Any],
    path: Path,
    opened: Callable[[str], AbstractContextManager[End]],
    published: Callable[[str | None], None],
) -> None:
    """Prepare all ends, find from where on bytes are needed, and pass them."""
    with contextlib.ExitStack() as stack:
        ends: list[End] = []

        def prepare() -> int:
            if job.rank == members[0]:
                ends.append(DirectorySource(path, told["files"]) if "files" in told else FileSource(path))
            elif job.rank in members:
                ends.append(stack.enter_context(opened(f"{what}, from rank {members[0]}")))
            else:
                ends.append(Bystander(told["size_bytes"]))
            return ends[0].first_missing

        start = job.agree(what, prepare, merge=min, alike=True)
        end = ends[0]
        job.pass_on(
            what,
            members,
            (start, told["size_bytes"]),
            end.each,
            lambda: end.told(start),
            lambda heard: published(end.publish(start, heard)),
        )
