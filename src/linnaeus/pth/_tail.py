"""Find the description of a file from its end, in a few small reads, however large the file is.

The description is the last record, so its directory entry is the last, right before the end records, whose
sizes are known. Nothing else of the directory is looked at.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError
from linnaeus.pth._document import RECORD, Document, parse, parse_head

_END_BYTES = 98  # zip64 end, its locator, and the end record without a comment
_END64 = struct.Struct("<4sQHHIIQQQQ")
_CENTRAL = struct.Struct("<4s12xIIIHHHHHII")
_LOCAL_BYTES = 30
_READ_BYTES = 512


def read_document(path: Path, descriptor: int) -> Document | None:
    """Return a file's own description, or None when linnaeus did not write it.

    Raises:
        CorruptCheckpointError: There is one, and it is damaged or can't be true.
        UnsupportedFormatError: It is of a newer version.
    """
    found = _read_record(path, descriptor)
    return None if found is None else parse(path, *found)


def read_head(path: Path, descriptor: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the beginning of a file's own description: who wrote it, and what it says of its run.

    The description is read as a whole and its checksum compared, but its tensors, which are most of it, are
    not looked at. None when linnaeus did not write the file.

    Raises:
        CorruptCheckpointError: There is a description, and it is damaged or can't be true.
        UnsupportedFormatError: It is of a newer version.
    """
    found = _read_record(path, descriptor)
    return None if found is None else parse_head(path, found[0])


def _read_record(path: Path, descriptor: int) -> tuple[bytes, int] | None:
    """Return the description's bytes, as they were written, and where its record begins."""
    size_bytes = os.fstat(descriptor).st_size
    start = max(0, size_bytes - _READ_BYTES)
    tail = os.pread(descriptor, size_bytes - start, start)
    found = _last_entry(tail)
    if found is None:
        return None
    name, crc32, length, header = found
    payload = _payload_offset(descriptor, header, len(name))
    if not name.endswith(f"/{RECORD}".encode()) or payload is None:
        return None
    if payload + length > start + len(tail) - _END_BYTES:
        raise CorruptCheckpointError(path=str(path), problem="a record ends outside the file", record=RECORD)
    data = os.pread(descriptor, length, payload)
    if zlib.crc32(data) != crc32:
        raise CorruptCheckpointError(
            path=str(path),
            problem=f"CRC-32 {crc32:08x} was recorded, {zlib.crc32(data):08x} found",
            record=RECORD,
        )
    return data, header


def _last_entry(tail: bytes) -> tuple[bytes, int, int, int] | None:
    """Return name, CRC-32, size and header offset of the directory's last entry."""
    end = tail[-_END_BYTES:]
    if end[:4] != b"PK\x06\x06" or end[-22:-18] != b"PK\x05\x06":
        return None
    central = tail[:-_END_BYTES]
    at = central.rfind(b"PK\x01\x02")
    if at < 0 or len(central) - at < _CENTRAL.size:
        return None
    _, crc32, _, size, name_bytes, extra_bytes, _, _, _, _, header = _CENTRAL.unpack_from(central, at)
    name = central[at + _CENTRAL.size : at + _CENTRAL.size + name_bytes]
    extra = central[at + _CENTRAL.size + name_bytes :][:extra_bytes]
    if header == 0xFFFFFFFF and len(extra) >= 12:
        header = int.from_bytes(extra[-8:], "little")
    return name, crc32, size, header


def _payload_offset(descriptor: int, header: int, name_bytes: int) -> int | None:
    local = os.pread(descriptor, _LOCAL_BYTES, header)
    if len(local) < _LOCAL_BYTES or local[:4] != b"PK\x03\x04":
        return None
    return header + _LOCAL_BYTES + name_bytes + int.from_bytes(local[28:30], "little")
