"""From an object to a `.pth` file that any `torch.load(weights_only=True)` reads, whole or not at all.

Invariant: the final name holds either what it held before or the complete new file. The bytes go to a
temporary name in the same directory; the commit is its rename after an fsync. A crash anywhere before
leaves the temporary name alone, which the next saver in that directory sweeps.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linnaeus.errors import InsufficientSpaceError, SaveError
from linnaeus.files import commit, is_out_of_space, remove_file, require_space, temporary_name
from linnaeus.pth._about import compose, tensor_infos
from linnaeus.pth._archive import ABOUT_RECORD, PICKLE_RECORD, open_archive
from linnaeus.pth._outline import outline_of
from linnaeus.pth._survey import survey


def save(obj: Any, path: str | os.PathLike[str], *, about: Mapping[str, Any] | None = None) -> None:
    """Write an object as `torch.save` would: atomically, durably, and proving itself.

    When this returns, the file is complete and on disk; when it raises, what stood under `path` before
    still does. Any `torch.load(path, weights_only=True, mmap=True)` reads it.

    Args:
        obj: Tensors, numbers, texts, bytes and None in dicts, lists, tuples and sets.
        path: Where to; an existing file is replaced. Its directory must exist.
        about: What the file shall say of itself (JSON values), to be had again by `describe`.

    Raises:
        SaveError: `obj` holds something else (its place in `obj` is named), or the system refused.
        InsufficientSpaceError: There is no room for it.
    """
    final = Path(path)
    problem, size_bytes = survey(obj)
    if problem:
        raise SaveError(path=str(final), problem=problem, advice="Store plain values in its place.")
    temporary = temporary_name(final)
    try:
        require_space(final, size_bytes)
        _write(obj, temporary, about or {})
        commit(temporary, final)
    except (OSError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise _failure(error, final, size_bytes) from error
    finally:
        remove_file(temporary)


def _write(obj: Any, temporary: Path, about: Mapping[str, Any]) -> None:
    import torch

    with temporary.open("wb") as file, _checksums():
        torch.save(obj, file)
    archive = open_archive(temporary)
    tensors = tensor_infos(outline_of(archive.read(PICKLE_RECORD)))
    with zipfile.ZipFile(temporary, "a") as appended:
        appended.writestr(archive.prefix + ABOUT_RECORD, compose(tensors, about))


@contextmanager
def _checksums() -> Iterator[None]:
    """Have torch write checksums, also where the user's program has switched them off."""
    from torch import serialization

    before = serialization.get_crc32_options()
    serialization.set_crc32_options(True)
    try:
        yield
    finally:
        serialization.set_crc32_options(before)


def _failure(error: Exception, final: Path, size_bytes: int) -> SaveError:
    if isinstance(error, SaveError):
        return error
    if is_out_of_space(error) or is_out_of_space(error.__context__ or error):
        return InsufficientSpaceError(path=str(final), problem="the disk became full while it was written")
    if isinstance(error, OSError):
        return SaveError(path=str(final), problem=error.strerror or str(error))
    if not _has_room(final, size_bytes):
        # torch's writer reports a failed write without the system's reason.
        return InsufficientSpaceError(path=str(final), problem="the disk became full while it was written")
    return SaveError(path=str(final), problem=str(error))


def _has_room(final: Path, size_bytes: int) -> bool:
    try:
        require_space(final, size_bytes)
    except (InsufficientSpaceError, OSError):
        return False
    return True
