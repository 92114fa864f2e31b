"""What the end of a zip archive tells: which records there are, how large, with which checksums.

Every offset that the file claims is checked against its size before it is used, so that a lying header is
an error and never a crash or a huge allocation.

Source of the format: PKWARE APPNOTE 6.3.10; `torch.save` stores records uncompressed under one prefix.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError

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
class Listed:
    """One record as the directory lists it; where its bytes begin only the header before them tells.

    Attributes:
        name: Without the archive's prefix.
        header: Where its header begins.
        spelled: Its name as the header must have it.
        size_bytes: Of its content.
        crc32: As recorded.
    """

    name: str
    header: int
    spelled: bytes
    size_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Directory:
    """What the end of an archive tells: which records there are; their headers are not read.

    They lie all over the file, and reading them has a disk read what lies around them.
    """

    path: Path
    prefix: str
    records: dict[str, Listed]

    def read(self, name: str) -> bytes:
        """Return a record's bytes, as `Archive.read` does."""
        listed = self.records.get(name)
        if listed is None:
            raise corrupt(self.path, "a record is missing", name)
        with self.path.open("rb", buffering=0) as file:
            record = located(self.path, file.fileno(), listed)
        checked = any(record.crc32 for record in self.records.values())
        return content(self.path, record, checked=checked)


def open_directory(path: Path) -> Directory:
    """Read the archive's directory and check it as far as it tells itself.

    Raises:
        CorruptCheckpointError: The archive is cut short or its directory contradicts itself.
        UnsupportedFormatError: It is a zip archive, but not one that `torch.save` makes.
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # or a disk reads ahead of every look
        try:
            with zipfile.ZipFile(file) as archive:
                entries, start = archive.infolist(), archive.start_dir
        except BAD_ZIP as error:
            raise corrupt(path, f"its end is missing or unreadable ({error})") from error
        _check_directory(path, file.fileno(), start, len(entries))
    prefix = prefix_of(path, [entry.filename for entry in entries])
    records: dict[str, Listed] = {}
    for entry in entries:
        listed = _listed(path, entry, prefix)
        if listed.name in records:
            raise corrupt(path, "a record is there twice", listed.name)
        records[listed.name] = listed
    return Directory(path, prefix, records)


def _check_directory(path: Path, descriptor: int, start: int, num_entries: int) -> None:
    """Check that the directory's entries join without a gap, up to the archive's end; zipfile does not."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size - start, start)
    at = 0
    for _ in range(num_entries):
        if len(data) - at < _ENTRY.size or not data.startswith(b"PK\x01\x02", at):
            raise corrupt(path, "its directory of records is damaged")
        at += _ENTRY.size + sum(_ENTRY.unpack_from(data, at)[1:])
    if not _is_end(data[at : at + _END_BYTES], start + at, num_entries):
        raise corrupt(path, "the end of its directory is damaged")


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


def _listed(path: Path, entry: zipfile.ZipInfo, prefix: str) -> Listed:
    """Check an entry of the directory by itself."""
    name = entry.filename.removeprefix(prefix)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise _foreign(path, "a compressed or encrypted zip archive")
    if entry.compress_size != entry.file_size:
        raise corrupt(path, "two sizes are given for one record", name)
    if entry.flag_bits & _ODD_FLAGS or entry.volume or entry.external_attr & _IS_DIRECTORY:
        raise corrupt(path, "a record's entry in the directory is damaged", name)
    spelled = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
    return Listed(name, entry.header_offset, spelled, entry.file_size, entry.CRC)


def located(path: Path, descriptor: int, listed: Listed, size_bytes: int | None = None) -> Record:
    """Find a record's first byte through its header, which must agree with the directory.

    Args:
        path: The file.
        descriptor: The file, open.
        listed: What the directory says.
        size_bytes: The whole file's; without it, it isn't checked that the record ends inside.

    Raises:
        CorruptCheckpointError: There is another header, or none.
    """
    header = os.pread(descriptor, _LOCAL_HEADER.size + len(listed.spelled), listed.header)
    if len(header) < _LOCAL_HEADER.size:
        raise corrupt(path, "a record lies outside the file", listed.name)
    magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(header)
    stored = header[_LOCAL_HEADER.size :]
    if magic != b"PK\x03\x04" or name_bytes != len(stored) or stored != listed.spelled:
        raise corrupt(path, "a record's header is damaged", listed.name)
    offset = listed.header + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if size_bytes is not None and offset + listed.size_bytes > size_bytes:
        raise corrupt(path, "a record ends outside the file", listed.name)
    return Record(listed.name, offset, listed.size_bytes, listed.crc32)


def content(path: Path, record: Record, *, checked: bool) -> bytes:
    """Return a record's bytes.

    Raises:
        CorruptCheckpointError: They are not those that were summed, or not all there.
    """
    data = b"".join(_pieces(path, record))
    if checked and zlib.crc32(data) != record.crc32:
        raise crc_error(path, record, zlib.crc32(data))
    return data


def _pieces(path: Path, record: Record) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        position, end = record.offset, record.offset + record.size_bytes
        while position < end:
            piece = os.pread(file.fileno(), min(_CHUNK_BYTES, end - position), position)
            if not piece:
                raise corrupt(path, "the file became shorter while it was read", record.name)
            position += len(piece)
            yield piece


def corrupt(path: Path, problem: str, record: str | None = None) -> CorruptCheckpointError:
    """Return the error for an archive that is not whole."""
    return CorruptCheckpointError(path=str(path), problem=problem, record=record)


def crc_error(path: Path, record: Record, found: int) -> CorruptCheckpointError:
    """Return the error for a record of another checksum."""
    return CorruptCheckpointError(
        path=str(path),
        problem=f"CRC-32 {record.crc32:08x} was recorded, {found:08x} found",
        record=record.name,
    )
