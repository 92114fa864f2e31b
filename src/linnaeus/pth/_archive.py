"""The zip archive that a modern `.pth` file is: its records, where their bytes lie, their checksums.

Reads without torch and without unpickling. Every offset that the file claims is checked against the
file's size before it is used, so that a lying header is an error and never a crash or a huge allocation.

Source of the format: PKWARE APPNOTE 6.3.10; `torch.save` stores records uncompressed under one prefix.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._checksums import crc32s

PICKLE_RECORD = "data.pkl"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENTRY = struct.Struct("<4s24xHHH12x")  # of the directory: the lengths of name, extra field and comment
# Encryption and patches; and what makes torch's reader return a record's memory without filling it.
_ODD_FLAGS, _IS_DIRECTORY = 0x2061, 0x10
# The ends of a directory: disk numbers and numbers of entries, first of large archives, then of all.
_END64 = struct.Struct("<4sQ4xIIQQ16x")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHH10x")
_END_BYTES = _END64.size + _LOCATOR.size + _END.size
_CHUNK_BYTES = 1 << 20
_UTF8 = 0x800  # the flag of a name in UTF-8; others are in the character set of old PCs
# Everything that zipfile raises on archives that are cut short or lie about themselves.
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the archive; `name` is without the archive's prefix, `offset` is of its first byte."""

    name: str
    offset: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The records of a `.pth` archive by name, in the order of the file."""

    path: Path
    prefix: str
    records: dict[str, Record]

    @property
    def has_checksums(self) -> bool:
        """Whether checksums were recorded (`torch.serialization.set_crc32_options(False)` leaves zeros)."""
        return any(record.crc32 for record in self.records.values())

    def read(self, name: str) -> bytes:
        """Return a record's bytes, checked against its CRC-32 where one is recorded.

        Raises:
            CorruptCheckpointError: There is no such record, or its bytes are damaged.
        """
        record = self.records.get(name)
        if record is None:
            raise _corrupt(self.path, "a record is missing", name)
        data = b"".join(_pieces(self.path, record))
        if self.has_checksums and zlib.crc32(data) != record.crc32:
            raise _crc_error(self.path, record, zlib.crc32(data))
        return data

    def first_damaged(self) -> CorruptCheckpointError | None:
        """Read every record and return an error for the first whose CRC-32 is wrong."""
        records = list(self.records.values()) if self.has_checksums else []
        found = crc32s(self.path, [(record.offset, record.size_bytes) for record in records])
        for record, crc32 in zip(records, found, strict=True):
            if crc32 is None:
                return _corrupt(self.path, "the file became shorter while it was read", record.name)
            if crc32 != record.crc32:
                return _crc_error(self.path, record, crc32)
        return None


def open_archive(path: Path) -> Archive:
    """Read the archive's directory and check that all of it lies inside the file.

    Raises:
        CorruptCheckpointError: The archive is cut short or contradicts itself.
        UnsupportedFormatError: It is a zip archive, but not one that `torch.save` makes.
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                entries, start = archive.infolist(), archive.start_dir
        except BAD_ZIP as error:
            raise _corrupt(path, f"its end is missing or unreadable ({error})") from error
        _check_directory(path, file.fileno(), start, len(entries))
        prefix = prefix_of(path, [entry.filename for entry in entries])
        records: dict[str, Record] = {}
        for entry in entries:
            record = _locate(path, file.fileno(), entry, prefix, size_bytes)
            if record.name in records:
                raise _corrupt(path, "a record is there twice", record.name)
            records[record.name] = record
    return Archive(path, prefix, records)


def _check_directory(path: Path, descriptor: int, start: int, num_entries: int) -> None:
    """Check that the directory's entries join without a gap, up to the archive's end; zipfile does not."""
    position = start
    for _ in range(num_entries):
        entry = os.pread(descriptor, _ENTRY.size, position)
        if len(entry) < _ENTRY.size or not entry.startswith(b"PK\x01\x02"):
            raise _corrupt(path, "its directory of records is damaged")
        position += _ENTRY.size + sum(_ENTRY.unpack(entry)[1:])
    if not _is_end(os.pread(descriptor, _END_BYTES, position), position, num_entries):
        raise _corrupt(path, "the end of its directory is damaged")


def _is_end(data: bytes, position: int, num_entries: int) -> bool:
    """Tell whether bytes close a directory in a way that torch's reader, stricter than zipfile, accepts."""
    if data.startswith(b"PK\x06\x06"):
        if len(data) < _END_BYTES:
            return False
        _, size, *disks, here, total = _END64.unpack_from(data)
        if [size, *disks, here, total] != [_END64.size - 12, 0, 0, num_entries, num_entries]:
            return False
        if _LOCATOR.unpack_from(data, _END64.size) != (b"PK\x06\x07", 0, position, 1):
            return False
        data = data[_END64.size + _LOCATOR.size :]
    if len(data) < _END.size:
        return False
    magic, *disks, here, total = _END.unpack_from(data)
    return magic == b"PK\x05\x06" and disks == [0, 0] and here == total


def prefix_of(path: Path, names: list[str]) -> str:
    """Return the folder that all records of a checkpoint are in; other archives are refused."""
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if len(tops) == 1:
        prefix = tops.pop() + "/"
        if prefix + "constants.pkl" in names:
            raise _foreign(path, "a TorchScript archive")
        if prefix + PICKLE_RECORD in names and all(name.startswith(prefix) for name in names):
            return prefix
    raise _foreign(path, "another kind of zip archive")


def _foreign(path: Path, found: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        path=str(path),
        problem="it is not a checkpoint",
        found=found,
        supported="files that torch.save or linnaeus.save wrote",
    )


def _locate(path: Path, descriptor: int, entry: zipfile.ZipInfo, prefix: str, size_bytes: int) -> Record:
    """Find a record's first byte through its local header, which must agree with the directory."""
    name = entry.filename.removeprefix(prefix)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise _foreign(path, "a compressed or encrypted zip archive")
    if entry.compress_size != entry.file_size:
        raise _corrupt(path, "two sizes are given for one record", name)
    if entry.flag_bits & _ODD_FLAGS or entry.volume or entry.external_attr & _IS_DIRECTORY:
        raise _corrupt(path, "a record's entry in the directory is damaged", name)
    header = os.pread(descriptor, _LOCAL_HEADER.size, entry.header_offset)
    if len(header) < _LOCAL_HEADER.size:
        raise _corrupt(path, "a record lies outside the file", name)
    magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    stored = os.pread(descriptor, name_bytes, entry.header_offset + _LOCAL_HEADER.size)
    if magic != b"PK\x03\x04" or stored != entry.orig_filename.encode(
        "utf-8" if entry.flag_bits & _UTF8 else "cp437"
    ):
        raise _corrupt(path, "a record's header is damaged", name)
    offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if offset + entry.file_size > size_bytes:
        raise _corrupt(path, "a record ends outside the file", name)
    return Record(name, offset, entry.file_size, entry.CRC)


def _pieces(path: Path, record: Record) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        position, end = record.offset, record.offset + record.size_bytes
        while position < end:
            piece = os.pread(file.fileno(), min(_CHUNK_BYTES, end - position), position)
            if not piece:
                raise _corrupt(path, "the file became shorter while it was read", record.name)
            position += len(piece)
            yield piece


def _corrupt(path: Path, problem: str, record: str | None = None) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), problem=problem, record=record)


def _crc_error(path: Path, record: Record, found: int) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        path=str(path),
        problem=f"CRC-32 {record.crc32:08x} was recorded, {found:08x} found",
        record=record.name,
    )


def open_file(path: Path) -> int:
    """Open a file for reading and return its descriptor.

    Raises:
        CheckpointInvalidError: It is none: opening a pipe would wait for somebody to write into it.
        OSError: The system refused.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise CheckpointInvalidError(path=str(path), problem=f"it is {kind}")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def not_readable(path: Path, error: OSError) -> CheckpointInvalidError:
    """Return the error for a file that the system won't read."""
    return CheckpointInvalidError(path=str(path), problem=f"it can't be read ({error.strerror})")
