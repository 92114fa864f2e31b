"""One process at a time brings a name into the cache; who waits for it uses what came, or fails as it did.

The lock is an optimisation. What keeps the cache right, also where locks do nothing, is that everything is
made in a private directory and published without replacing anything. When the one at work dies, a waiter
takes over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from linnaeus.errors import (
    CheckpointInvalidError,
    InsufficientSpaceError,
    LinnaeusError,
    SaveError,
    error_named,
)
from linnaeus.files import Lock, is_out_of_space, make_directory, remove_file, write_text
from linnaeus.resolving._records import WORK_DIRECTORY
from linnaeus.resolving._unfinished import own_directory, release, sweep

_log = logging.getLogger(__name__)


def once(final: Path, bring: Callable[[Path], None]) -> Path:
    """Have something brought to its place in a cache, unless another process does so meanwhile.

    Args:
        final: Its place.
        bring: Brings it; is given the cache's working directory.

    Returns:
        `final`, which is there.

    Raises:
        LinnaeusError: What `bring` raised, here or in the process that was waited for.
    """
    work = prepare_cache(final.parent)
    failure = work / f"{key_of(final)}.failure"
    with writing_cache(final.parent):
        known = _told(failure)
        waited: list[bool] = []
        with Lock(work / f"{key_of(final)}.lock", on_wait=lambda: waited.append(True)):
            if final.exists():
                return final
            told = _told(failure)
            if waited and told and told != known:
                raise _as_error(told)
            try:
                bring(work)
            except LinnaeusError as error:
                _tell(failure, error)
                raise
            remove_file(failure)
    return final


def key_of(final: Path) -> str:
    """Return what stands for a name in the working directory: names may be as long as file names can be."""
    return hashlib.sha256(final.name.encode()).hexdigest()[:16]


def prepare_cache(cache_dir: Path) -> Path:
    """Make the cache's working directory, sweep what the dead have left in it, and return it."""
    work = cache_dir / WORK_DIRECTORY
    with writing_cache(cache_dir):
        _make_work_directory(work)
        for entry in sweep(work):
            _log.info("swept %s, left by a process that ended", entry)
    return work


def _make_work_directory(work: Path) -> None:
    if work.is_dir():
        return
    make_directory(work)
    with contextlib.suppress(PermissionError):  # another user was faster
        # Who may put files into the cache must be able to work in here, whatever the umask.
        work.chmod(stat.S_IMODE(work.parent.stat().st_mode))


@contextlib.contextmanager
def kept_when_cut(final: Path, work: Path) -> Iterator[Path]:
    """Yield a directory to make something in; after a cut what came is kept, unless it was wrong."""
    with writing_cache(final.parent):
        private = own_directory(work, key_of(final))
    try:
        yield private
    except CheckpointInvalidError:
        shutil.rmtree(private, ignore_errors=True)
        raise
    except BaseException:
        release(private, work, key_of(final))
        raise
    shutil.rmtree(private, ignore_errors=True)


@contextlib.contextmanager
def writing_cache(cache_dir: Path) -> Iterator[None]:
    """Make errors of ours of what the system says to writing into the cache."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LinnaeusError):
            raise
        path = str(error.filename or cache_dir)
        if is_out_of_space(error):
            raise InsufficientSpaceError(path=path, problem="the disk is full") from error
        raise SaveError(
            path=path,
            problem=f"the cache can't be written ({error.strerror})",
            advice="Choose another with ENV.INPUT.CACHE_DIR or LINNAEUS_CACHE_DIR."
            " What it holds can still be used.",
        ) from error


def _tell(failure: Path, error: LinnaeusError) -> None:
    """Leave word for those who wait: they would only fail the same way, one after another."""
    told = {"attempt": os.urandom(8).hex(), "error": type(error).__name__, "fields": error.fields()}
    with contextlib.suppress(OSError):  # a full disk; then they try for themselves
        write_text(failure, json.dumps(told, default=str))


def _told(failure: Path) -> str | None:
    try:
        return failure.read_text(encoding="utf-8")
    except OSError:
        return None


def _as_error(told: str) -> LinnaeusError:
    document = json.loads(told)
    error = error_named(document["error"], document["fields"])
    if error is None:
        return SaveError(path="the cache", problem=f"another process failed to fetch it: {document['error']}")
    return error
