"""The format that `torch.save` wrote before 1.6, and still writes on request: pickles, then raw storages.

It has no checksums and no directory. What can be verified is that every part is there, of the
claimed size, and that nothing follows.

Source: `torch.serialization._legacy_save`: magic number, protocol, system info, object, list of storage
keys, then for each key a 64-bit element count and the bytes.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._bounds import pickle_end
from linnaeus.pth._outline import BAD_PICKLE, Outline, outline_of
from linnaeus.pth._stubs import StorageStub

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NUM_PICKLES = 5
_COUNT = struct.Struct("<q")
# What is read of a file that is elsewhere: holds the pickles of a thousand tensors; and at most, of any.
_FIRST_BYTES, _MAX_PICKLE_BYTES = 128 << 10, 64 << 20

ReadAt = Callable[[int, int], bytes]


def is_legacy(head: bytes) -> bool:
    """Tell whether a file's first bytes are those of the old format."""
    try:
        return bool(outline_of(head).tree == _MAGIC)
    except BAD_PICKLE:
        return False


def read_legacy(path: Path) -> Outline:
    """Read an old-format file's outline and check that all its storages are there.

    Raises:
        CorruptCheckpointError: It is cut short, or its parts contradict each other.
        UnsupportedFormatError: It was written by a torch with another protocol.
        BAD_PICKLE: One of its pickles is damaged.
    """
    with path.open("rb") as file:
        pickles: list[Outline] = []
        for _ in range(_NUM_PICKLES):
            pickles.append(outline_of(file))
            if pickles[-1].refused:  # code may hide in any of them; nothing after it matters
                return pickles[-1]
        _, protocol, system, outline, keys = pickles
        _check_head(path, protocol.tree, system.tree)
        _check_storages(path, file, outline, keys.tree)
        return outline


def read_legacy_there(path: Path, size_bytes: int, read_at: ReadAt) -> Outline:
    """Read an old-format file's outline where only ranges of it can be had: its pickles stand first.

    Args:
        path: What to call it.
        size_bytes: Of the whole file.
        read_at: Returns `length` bytes from `offset` on, for each (offset, length).

    Raises:
        CorruptCheckpointError: Its size is not that of its storages, or its parts contradict each other.
        UnsupportedFormatError: It was written by a torch with another protocol.
        BAD_PICKLE: One of its pickles is damaged, or larger than any real one.
    """
    length = _FIRST_BYTES
    while True:
        data = read_at(0, min(length, size_bytes))
        ends = _pickle_ends(data, final=length >= min(size_bytes, _MAX_PICKLE_BYTES))
        if ends is not None:
            break
        length *= 8
    pickles = [outline_of(data[start:end]) for start, end in pairwise((0, *ends))]
    refused = next((outline for outline in pickles if outline.refused), None)
    if refused is not None:
        return refused
    _, protocol, system, outline, keys = pickles
    _check_head(path, protocol.tree, system.tree)
    _check_keys(path, outline, keys.tree)
    if (
        ends[-1] + sum(_COUNT.size + storage.size_bytes for storage in outline.storages.values())
        != size_bytes
    ):
        raise _corrupt(path, "its size is not that of its storages")
    return outline


def _pickle_ends(data: bytes, *, final: bool) -> list[int] | None:
    """Return where each of the pickles ends; None where more of the file must be had to tell."""
    ends = [0]
    try:
        for _ in range(_NUM_PICKLES):
            ends.append(pickle_end(data, ends[-1]))
    except BAD_PICKLE:
        if final:
            raise
        return None
    return ends[1:]


def _check_head(path: Path, protocol: object, system: object) -> None:
    if protocol != _PROTOCOL:
        raise UnsupportedFormatError(
            path=str(path),
            problem="its protocol is unknown",
            found=repr(protocol)[:80],
            supported=str(_PROTOCOL),
        )
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _corrupt(path, "its byte order is unknown or big-endian")


def _check_storages(path: Path, file: BinaryIO, outline: Outline, keys: object) -> None:
    for key in _check_keys(path, outline, keys):
        _skip_storage(path, file, outline.storages[str(key)])
    if file.read(1):
        raise _corrupt(path, "bytes follow its end")


def _check_keys(path: Path, outline: Outline, keys: object) -> list[object]:
    if not isinstance(keys, list) or {str(key) for key in keys} != set(outline.storages):
        raise _corrupt(path, "the list of storages does not match the object")
    return keys


def _skip_storage(path: Path, file: BinaryIO, storage: StorageStub) -> None:
    head = file.read(_COUNT.size)
    if len(head) < _COUNT.size or _COUNT.unpack(head)[0] * storage.item_bytes != storage.size_bytes:
        raise _corrupt(path, f"storage {storage.key} is missing or of another size")
    end = file.tell() + storage.size_bytes
    if end > os.fstat(file.fileno()).st_size:
        raise _corrupt(path, f"it ends inside storage {storage.key}")
    file.seek(end)


def _corrupt(path: Path, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), problem=problem)


def code_asked_for(path: Path) -> list[str]:
    """Return what a file that is no checkpoint asks for beyond data, when it is a pickle.

    `torch.load(weights_only=False)` would run it, looking for the old format's first number.
    """
    try:
        with path.open("rb") as file:
            return outline_of(file).refused
    except BAD_PICKLE:
        return []


def starts_like_pickle(head: bytes) -> bool:
    """Tell whether bytes begin like any pickle of protocol 2 or later."""
    return head[:1] == pickle.PROTO and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL])
