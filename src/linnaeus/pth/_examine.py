"""Look into a file and say what it is: the common ground of verify, describe and load.

Any `.pth` that any torch wrote is understood: the zip archive and the format before 1.6. Nothing is
executed and torch is not imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    UnsupportedFormatError,
)
from linnaeus.pth._archive import Archive, not_readable, open_archive, open_file
from linnaeus.pth._directory import PICKLE_RECORD, Directory, open_directory
from linnaeus.pth._document import RECORD, Document, TensorInfo, parse
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine_sharded import examine_directory
from linnaeus.pth._globals import unsafe
from linnaeus.pth._legacy import code_asked_for, is_legacy, read_legacy, starts_like_pickle
from linnaeus.pth._outline import BAD_PICKLE, Outline, extent_bytes, outline_of
from linnaeus.pth._safetensors import (
    INDEX,
    SAFETENSORS,
    is_index,
    is_safetensors,
    read_header,
    read_index,
)
from linnaeus.pth._stubs import TensorStub
from linnaeus.pth._tail import read_document

HEAD_BYTES = 512
OLD_FORMAT = "torch.save, format before 1.6"
_SUPPORTED = "files that torch.save or linnaeus.save wrote"
_PLAIN = (str, int, float, bool)


def examine(
    path: Path, *, thoroughly: bool = False, briefly: bool = False, partly: bool = False
) -> Examination:
    """Read a file's structure.

    Args:
        path: The file.
        thoroughly: For a file that describes itself, look also at its directory and its pickle, and
            compare them with the description; their size grows with the number of tensors.
        briefly: Of an archive that doesn't describe itself, read neither the records' headers, which lie
            all over the file, nor list the tensors: the tree has them.
        partly: Of a directory, take also the part that a node without a shared directory has.

    Raises:
        CorruptCheckpointError: It is cut short or contradicts itself.
        IncompleteCheckpointError: It is a part, and `partly` is not said.
        UnsupportedFormatError: It is something else than a checkpoint.
        UnsafeCheckpointError: It is something else, and asks for code.
        CheckpointInvalidError: The system won't let it be read.
    """
    if path.is_dir():
        return examine_directory(path, thoroughly=thoroughly, partly=partly)
    try:
        with os.fdopen(open_file(path), "rb", buffering=0) as file:
            head = os.pread(file.fileno(), HEAD_BYTES, 0)
            size_bytes = os.fstat(file.fileno()).st_size
            if not head:
                raise CorruptCheckpointError(path=str(path), problem="it is empty")
            if head.startswith(b"PK\x03\x04"):
                document = read_document(path, file.fileno())
                if document is not None and not thoroughly:
                    return _described(path, size_bytes, document)
                if briefly:
                    return _examine_directory(path, size_bytes)
                return _examine_archive(path, size_bytes, document)
            if is_safetensors(path, head):
                tensors, about = read_header(path, file.fileno(), size_bytes)
                names = tuple(tensor.name for tensor in tensors)
                return Examination(path, SAFETENSORS, size_bytes, tensors, names, about)
        if is_index(path, head):
            files = tuple(dict.fromkeys(read_index(path).values()))
            return Examination(path, INDEX, size_bytes, (), files, {})
        if is_legacy(head):
            return _examine_legacy(path, size_bytes)
        asked_for = code_asked_for(path)
    except OSError as error:
        raise not_readable(path, error) from error
    if asked_for:
        raise unsafe(path, asked_for)
    raise no_checkpoint(path, head)


def _described(path: Path, size_bytes: int, document: Document) -> Examination:
    try:
        tensors, keys = document.infos(), document.keys()
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise _untrue(path, error) from error
    return Examination(path, "linnaeus", size_bytes, tensors, keys, document.about, document=document)


def _untrue(path: Path, error: object) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        path=str(path), problem=f"its description can't be true ({error})", record=RECORD
    )


def _examine_legacy(path: Path, size_bytes: int) -> Examination:
    try:
        outline = read_legacy(path)
        stubs = list(outline.tensors())
        if not outline.refused:
            _check_tensors(path, stubs)
    except BAD_PICKLE as error:
        raise damaged_pickle(path, error, None) from error
    return outlined(path, OLD_FORMAT, size_bytes, outline, tensor_infos(stubs), None)


def outlined(
    path: Path,
    kind: str,
    size_bytes: int,
    outline: Outline,
    tensors: tuple[TensorInfo, ...],
    archive: Archive | None,
) -> Examination:
    """Return what a pickle alone tells of a file."""
    tree = outline.tree
    items = dict.items(tree) if isinstance(tree, dict) else ()
    return Examination(
        path,
        kind,
        size_bytes,
        tensors,
        tuple(str(key) for key, _ in items),
        {key: value for key, value in items if isinstance(key, str) and isinstance(value, _PLAIN)},
        archive,
        refused=outline.refused,
        replaced=frozenset(outline.replaced),
        tree=outline.tree,
    )


def _examine_directory(path: Path, size_bytes: int) -> Examination:
    directory = open_directory(path)
    outline, _ = _outline(directory)
    return replace(outlined(path, "torch.save", size_bytes, outline, (), None), directory=directory)


def _outline(archive: Archive | Directory) -> tuple[Outline, list[tuple[str, TensorStub]]]:
    """Return what the pickle describes, and the tensors in it by name, checked against the records."""
    try:
        outline = outline_of(archive.read(PICKLE_RECORD))
        tensors = list(outline.tensors())
        if not outline.refused:  # what asks for code is refused in any case
            _check_storages(archive, outline)
            _check_tensors(archive.path, tensors)
        return outline, tensors
    except BAD_PICKLE as error:
        raise damaged_pickle(archive.path, error, PICKLE_RECORD) from error


def _examine_archive(path: Path, size_bytes: int, document: Document | None) -> Examination:
    archive = open_archive(path)
    outline, stubs = _outline(archive)
    tensors = tensor_infos(stubs)
    if document is None and RECORD in archive.records and not outline.refused:
        # Another tool packed the archive anew.
        document = parse(path, archive.read(RECORD), size_bytes)
    if document is None or outline.refused:
        return outlined(path, "torch.save", size_bytes, outline, tensors, archive)
    described = _described(path, size_bytes, document)
    _compare(archive, document, described.tensors, tensors)
    return replace(described, archive=archive)


def _compare(
    archive: Archive, document: Document, described: Sequence[TensorInfo], pickled: Sequence[TensorInfo]
) -> None:
    """Check that description, pickle and directory tell the same."""
    records = (archive.records.get(f"data/{key}") for key in range(len(document.storages)))
    places = [record and (record.offset, record.size_bytes) for record in records]
    if places != list(document.storages) or described != pickled:
        raise CorruptCheckpointError(
            path=str(archive.path), problem="its description does not match its content", record=RECORD
        )


def tensor_infos(stubs: Iterable[tuple[str, TensorStub]]) -> tuple[TensorInfo, ...]:
    """Return the tensors of an outline, in the order of the file."""
    return tuple(
        TensorInfo(
            name=name,
            dtype=stub.dtype,
            shape=stub.shape,
            stride=stub.stride,
            offset=stub.offset,
            record=None if stub.storage is None else f"data/{stub.storage.key}",
        )
        for name, stub in stubs
    )


def damaged_pickle(path: Path, error: Exception, record: str | None) -> CheckpointInvalidError:
    """Return the error for a pickle that can't be read."""
    if isinstance(error, CheckpointInvalidError):  # one of ours is a ValueError too
        return error
    return CorruptCheckpointError(path=str(path), problem=f"its pickle is damaged ({error})", record=record)


def _check_storages(archive: Archive | Directory, outline: Outline) -> None:
    """Check that every storage has a record of its size."""
    for storage in outline.storages.values():
        record = archive.records.get(f"data/{storage.key}")
        if record is None or record.size_bytes != storage.size_bytes:
            raise CorruptCheckpointError(
                path=str(archive.path),
                problem=f"{storage.size_bytes} bytes are expected, "
                + ("none are there" if record is None else f"{record.size_bytes} are there"),
                record=f"data/{storage.key}",
            )


def _check_tensors(path: Path, stubs: Iterable[tuple[str, TensorStub]]) -> None:
    """Check that every tensor stays inside its storage."""
    for name, tensor in stubs:
        if tensor.storage is not None and not 0 <= extent_bytes(tensor) <= tensor.storage.size_bytes:
            raise CorruptCheckpointError(
                path=str(path),
                problem="a tensor reaches outside its bytes",
                record=f"data/{tensor.storage.key}",
                tensor=name,
            )


def no_checkpoint(path: Path, head: bytes) -> UnsupportedFormatError | CorruptCheckpointError:
    """Return the error for a file that is something else."""
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
        return "a safetensors file (its name must end in .safetensors)"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a tar or compressed file"
    if starts_like_pickle(head):
        return "a pickle that torch.save did not write"
    return f"bytes that begin with {head[:8].hex(' ')}"
