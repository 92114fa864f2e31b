"""From an object to a `.pth` file that any `torch.load(weights_only=True)` reads, whole or not at all.

Invariant: the final name holds either what it held before or the complete new file. The bytes go to a
temporary name in the same directory; the commit is its rename after an fsync. A crash anywhere before
leaves the temporary name alone, which the next saver in that directory sweeps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import InsufficientSpaceError, SaveError
from linnaeus.files import Recycled, commit, is_out_of_space, remove_file, require_space, temporary_name
from linnaeus.pth._collection import collection_paused

if TYPE_CHECKING:
    from linnaeus.pth._archiver import Parts


def save(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    about: Mapping[str, Any] | None = None,
    durable: bool = True,
    recycled: Recycled | None = None,
) -> None:
    """Write an object as `torch.save` would: atomically, durably, proving itself, and without copying it.

    When this returns, the file is complete and on disk; when it raises, what stood under `path` before
    still does. Any `torch.load(path, weights_only=True, mmap=True)` reads it. The object must not be
    changed meanwhile.

    Args:
        obj: Tensors, numbers, texts, bytes and None in dicts, lists, tuples and sets.
        path: Where to; an existing file is replaced. Its directory must exist.
        about: What the file shall say of itself (JSON values), to be had again by `describe`.
        durable: Wait until the bytes are on disk. Without it the file is whole for every reader, but a
            power loss soon after may take it.
        recycled: A file of the same directory that nobody needs, whose blocks are written over. If
            somebody has it open or linked after all, it is only removed.

    Raises:
        SaveError: `obj` holds something else (its place in `obj` is named), `path` is something else than
            a file, or the system refused.
        InsufficientSpaceError: There is no room for it.
    """
    final = _file_name(path)
    if recycled is not None and not recycled.is_nobodys():  # somebody took it while it waited
        remove_file(recycled.path)
        recycled = None
    temporary = recycled.path if recycled else temporary_name(final)
    size_bytes = 0
    try:
        with collection_paused():
            parts = take_apart(obj, about or {}, final)
            size_bytes = parts.size_bytes
            if recycled is None:
                require_space(final, size_bytes)
        parts.write(temporary, durable=durable)
        commit(temporary, final, durable=durable)
    except OSError as error:
        raise save_error(error, final, size_bytes) from error
    finally:
        with contextlib.suppress(OSError):  # whoever saves here next sweeps it
            remove_file(temporary)


def _file_name(path: str | os.PathLike[str]) -> Path:
    """Return where a file may be put: never in place of a device, which a rename would replace for all."""
    final = Path(path)
    if os.path.lexists(final) and not final.is_symlink() and not final.is_file():
        kind = "a directory" if final.is_dir() else "no regular file"
        raise SaveError(path=str(final), problem=f"it is {kind}")
    return final


def take_apart(obj: Any, about: Mapping[str, Any], final: Path) -> Parts:
    """Lay an object out as the records of a file; the first step of `save`, for who does the others apart.

    Args:
        obj: As for `save`.
        about: As for `save`.
        final: The name that the file will have, for messages.

    Returns:
        What can be written; it holds the storages themselves, not copies.

    Raises:
        SaveError: `obj` holds something that a safe checkpoint can't.
    """
    from linnaeus.pth._archiver import archive  # here, so that describing and resolving stay free of torch
    from linnaeus.pth._emit import RefusedError

    try:
        return archive(obj, about)
    except RefusedError as error:
        raise SaveError(
            path=str(final),
            problem=f"{error}, which a safe checkpoint can't hold",
            advice="Store plain values in its place.",
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise SaveError(
            path=str(final), problem=f"what it shall say of itself is not JSON ({error})"
        ) from error
    except RuntimeError as error:  # torch can't tell what some tensor consists of
        raise SaveError(path=str(final), problem=f"it holds a tensor without memory ({error})") from error


def save_error(error: OSError, final: Path, size_bytes: int) -> SaveError:
    """Return what to raise for a system's refusal while a file of this size was written."""
    if is_out_of_space(error):
        return InsufficientSpaceError(
            path=str(final), problem=f"the disk became full while {size_bytes:,} bytes were written"
        )
    return SaveError(path=str(final), problem=error.strerror or str(error))
