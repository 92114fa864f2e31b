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
from pathlib import Path
from typing import BinaryIO

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._outline import BAD_PICKLE, Outline, outline_of
from linnaeus.pth._stubs import StorageStub

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NUM_PICKLES = 5
_COUNT = struct.Struct("<q")


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
    if not isinstance(keys, list) or {str(key) for key in keys} != set(outline.storages):
        raise _corrupt(path, "the list of storages does not match the object")
    for key in keys:
        _skip_storage(path, file, outline.storages[str(key)])
    if file.read(1):
        raise _corrupt(path, "bytes follow its end")


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
