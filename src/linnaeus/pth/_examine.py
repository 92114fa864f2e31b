"""Look into a file and say what it is: the common ground of verify, describe and load.

Any `.pth` that any torch wrote is understood: the zip archive and the format before 1.6. Nothing is
executed and torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    UnsupportedFormatError,
)
from linnaeus.pth._about import TensorInfo, parse, tensor_infos
from linnaeus.pth._archive import ABOUT_RECORD, PICKLE_RECORD, Archive, not_readable, open_archive
from linnaeus.pth._legacy import code_asked_for, is_legacy, read_legacy, starts_like_pickle
from linnaeus.pth._outline import BAD_PICKLE, Outline, extent_bytes, outline_of

_HEAD_BYTES = 512
_SUPPORTED = "files that torch.save or linnaeus.save wrote"
_PLAIN = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Examination:
    """What a file is: its kind, its archive (None for the old format), its outline and own description.

    `document` is None for files that linnaeus did not write.
    """

    path: Path
    kind: str
    size_bytes: int
    archive: Archive | None
    outline: Outline
    tensors: tuple[TensorInfo, ...]
    document: dict[str, Any] | None = field(default=None)

    def require_safe(self) -> None:
        """Check that the file asks for nothing but data.

        Raises:
            UnsafeCheckpointError: Its pickle names other things; nothing of it was executed.
        """
        if self.outline.refused:
            raise unsafe(self.path, self.outline.refused)

    def about(self) -> dict[str, Any]:
        """Return what the file says of its run: of linnaeus.json, or the plain values at the top."""
        if self.document is not None:
            return dict(self.document["about"])
        tree = self.outline.tree
        plain = {k: v for k, v in tree.items() if isinstance(k, str)} if isinstance(tree, dict) else {}
        return {key: value for key, value in plain.items() if isinstance(value, _PLAIN)}


def unsafe(path: Path, names: Sequence[str]) -> UnsafeCheckpointError:
    """Return the error for a file that asks for these names."""
    return UnsafeCheckpointError(
        path=str(path),
        problem="its pickle asks for code beyond tensors and plain values",
        globals=sorted(names),
    )


def examine(path: Path) -> Examination:
    """Read a file's structure.

    Raises:
        CorruptCheckpointError: It is cut short or contradicts itself.
        UnsupportedFormatError: It is something else than a checkpoint.
        UnsafeCheckpointError: It is something else, and asks for code.
        CheckpointInvalidError: The system won't let it be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        size_bytes = path.stat().st_size
        if not head:
            raise CorruptCheckpointError(path=str(path), problem="it is empty")
        if head.startswith(b"PK\x03\x04"):
            return _examine_archive(path, size_bytes)
        if is_legacy(head):
            return _examine_legacy(path, size_bytes)
        asked_for = code_asked_for(path)
    except OSError as error:
        raise not_readable(path, error) from error
    if asked_for:
        raise unsafe(path, asked_for)
    raise _no_checkpoint(path, head)


def _examine_legacy(path: Path, size_bytes: int) -> Examination:
    try:
        outline = read_legacy(path)
        tensors = tensor_infos(outline)
        _check_tensors(path, outline)
    except BAD_PICKLE as error:
        raise _damaged_pickle(path, error, None) from error
    return Examination(path, "torch.save, format before 1.6", size_bytes, None, outline, tensors)


def _examine_archive(path: Path, size_bytes: int) -> Examination:
    archive = open_archive(path)
    try:
        outline = outline_of(archive.read(PICKLE_RECORD))
        tensors = tensor_infos(outline)
        _check_storages(archive, outline)
        _check_tensors(path, outline)
    except BAD_PICKLE as error:
        raise _damaged_pickle(path, error, PICKLE_RECORD) from error
    if ABOUT_RECORD not in archive.records or outline.refused:
        return Examination(path, "torch.save", size_bytes, archive, outline, tensors)
    document, described = parse(path, archive.read(ABOUT_RECORD))
    if described != tensors:
        raise CorruptCheckpointError(
            path=str(path), problem="its description does not match its content", record=ABOUT_RECORD
        )
    return Examination(path, "linnaeus", size_bytes, archive, outline, tensors, document)


def _damaged_pickle(path: Path, error: Exception, record: str | None) -> CheckpointInvalidError:
    if isinstance(error, CheckpointInvalidError):  # one of ours is a ValueError too
        return error
    return CorruptCheckpointError(path=str(path), problem=f"its pickle is damaged ({error})", record=record)


def _check_storages(archive: Archive, outline: Outline) -> None:
    """Check that every storage has a record of its size; what asks for code is refused in any case."""
    for storage in outline.storages.values() if not outline.refused else ():
        record = archive.records.get(f"data/{storage.key}")
        if record is None or record.size_bytes != storage.size_bytes:
            raise CorruptCheckpointError(
                path=str(archive.path),
                problem=f"{storage.size_bytes} bytes are expected, "
                + ("none are there" if record is None else f"{record.size_bytes} are there"),
                record=f"data/{storage.key}",
            )


def _check_tensors(path: Path, outline: Outline) -> None:
    """Check that every tensor stays inside its storage."""
    for name, tensor in outline.tensors() if not outline.refused else ():
        if tensor.storage is not None and not 0 <= extent_bytes(tensor) <= tensor.storage.size_bytes:
            raise CorruptCheckpointError(
                path=str(path),
                problem="a tensor reaches outside its bytes",
                record=f"data/{tensor.storage.key}",
                tensor=name,
            )


def _no_checkpoint(path: Path, head: bytes) -> UnsupportedFormatError | CorruptCheckpointError:
    if not head.strip(b"\0"):
        return CorruptCheckpointError(
            path=str(path), problem="it begins with zeros where a checkpoint should be"
        )
    return UnsupportedFormatError(
        path=str(path), problem="it is not a checkpoint", found=_guess(head), supported=_SUPPORTED
    )


def _guess(head: bytes) -> str:
    if re.match(rb"\s*(<!doctype html|<html|<\?xml)", head, re.IGNORECASE):
        return "a web page (an error page of a server?)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (run: git lfs pull)"
    if head[8:9] == b"{" and head[:8].strip(b"\0"):
        return "a safetensors file"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a tar or compressed file"
    if starts_like_pickle(head):
        return "a pickle that torch.save did not write"
    return f"bytes that begin with {head[:8].hex(' ')}"
