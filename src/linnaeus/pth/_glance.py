"""What a checkpoint that is elsewhere holds, told from a few ranges of its bytes.

The directory of records stands at the end of a file, and so does the description that linnaeus writes; where
there is none, the pickle tells, which `torch.save` puts first, as it did before 1.6. Neither the tensors nor
the records' own headers are read, so nothing here proves that the rest of the file is whole: that is for
`verify`, once the file is here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth._describe import Description, description_of
from linnaeus.pth._directory import BAD_ZIP, PICKLE_RECORD, prefix_of
from linnaeus.pth._document import RECORD, parse
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import (
    HEAD_BYTES,
    OLD_FORMAT,
    damaged_pickle,
    no_checkpoint,
    outlined,
    tensor_infos,
)
from linnaeus.pth._examine_sharded import examine_sharded_there
from linnaeus.pth._legacy import ReadAt, is_legacy, read_legacy_there
from linnaeus.pth._outline import BAD_PICKLE, outline_of
from linnaeus.pth._ranges import PIECE_BYTES, Ranges
from linnaeus.pth._safetensors import SAFETENSORS, header_bytes, parse_header


def glance(name: str, size_bytes: int, read_at: ReadAt) -> Description:
    """Read what a checkpoint holds where only ranges of it can be had: mostly one, at its end.

    Args:
        name: What to call it.
        size_bytes: Of the whole file.
        read_at: Returns `length` bytes from `offset` on, for each (offset, length).

    Raises:
        CheckpointInvalidError: It is no checkpoint, or visibly damaged.
    """
    return description_of(examine_there(name, size_bytes, read_at))


def examine_there(name: str, size_bytes: int, read_at: ReadAt) -> Examination:
    """Do what `glance` does, and return all that is known of the file."""
    if name.endswith(".safetensors"):
        return _safetensors(Path(name), size_bytes, read_at)
    try:
        with zipfile.ZipFile(Ranges(size_bytes, read_at)) as archive:
            return _examined(Path(name), size_bytes, archive)
    except (*BAD_ZIP, *BAD_PICKLE) as error:
        if isinstance(error, CheckpointInvalidError):  # one of ours is a ValueError too
            raise
        head = read_at(0, min(size_bytes, HEAD_BYTES))
        if b"PK\x03\x04".startswith(head[:4]):
            raise CorruptCheckpointError(path=name, problem=f"its end is unreadable ({error})") from error
    return _no_archive(Path(name), size_bytes, head, read_at)


def _no_archive(path: Path, size_bytes: int, head: bytes, read_at: ReadAt) -> Examination:
    if not is_legacy(head):
        raise no_checkpoint(path, head)
    try:
        outline = read_legacy_there(path, size_bytes, read_at)
        tensors = tensor_infos(outline.tensors())
    except BAD_PICKLE as error:
        raise damaged_pickle(path, error, None) from error
    return outlined(path, OLD_FORMAT, size_bytes, outline, tensors, None)


def _safetensors(path: Path, size_bytes: int, read_at: ReadAt) -> Examination:
    head = read_at(0, min(size_bytes, PIECE_BYTES))
    length = min(header_bytes(head), size_bytes)
    if length > len(head):
        head += read_at(len(head), length - len(head))
    tensors, about = parse_header(path, head[8:length], size_bytes)
    return Examination(path, SAFETENSORS, size_bytes, tensors, tuple(t.name for t in tensors), about)


def _examined(path: Path, size_bytes: int, archive: zipfile.ZipFile) -> Examination:
    prefix = prefix_of(path, archive.namelist())
    if prefix + RECORD not in archive.NameToInfo:
        outline = outline_of(archive.read(prefix + PICKLE_RECORD))
        return outlined(path, "torch.save", size_bytes, outline, tensor_infos(outline.tensors()), None)
    entry = archive.getinfo(prefix + RECORD)
    found = parse(path, archive.read(entry), entry.header_offset)
    return Examination(path, "linnaeus", size_bytes, found.infos(), found.keys(), found.about, document=found)


def glance_sharded(name: str, data: bytes, sizes: Mapping[str, int]) -> Description:
    """Return what a directory that is elsewhere holds, told from its commit file.

    Args:
        name: What to call it.
        data: The bytes of its commit file.
        sizes: Of all files that are there, by name.

    Raises:
        CheckpointInvalidError: The commit file is damaged, or tells of other files than are there.
    """
    return description_of(examine_sharded_there(name, data, sizes))
