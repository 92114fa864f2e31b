"""The zip archive that a modern `.pth` file is: its records, where their bytes lie, their checksums.

Reads without torch and without unpickling.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth._checksums import crc32s
from linnaeus.pth._directory import Record, content, corrupt, crc_error, located, open_directory


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
            raise corrupt(self.path, "a record is missing", name)
        return content(self.path, record, checked=self.has_checksums)

    def first_damaged(self) -> CorruptCheckpointError | None:
        """Read every record and return an error for the first whose CRC-32 is wrong."""
        records = list(self.records.values()) if self.has_checksums else []
        found = crc32s(self.path, [(record.offset, record.size_bytes) for record in records])
        for record, crc32 in zip(records, found, strict=True):
            if crc32 is None:
                return corrupt(self.path, "the file became shorter while it was read", record.name)
            if crc32 != record.crc32:
                return crc_error(self.path, record, crc32)
        return None


def open_archive(path: Path) -> Archive:
    """Read the archive's directory and every record's header, and check that all of it lies in the file.

    Raises:
        CorruptCheckpointError: The archive is cut short or contradicts itself.
        UnsupportedFormatError: It is a zip archive, but not one that `torch.save` makes.
        OSError: The file can't be read.
    """
    directory = open_directory(path)
    with path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        records = {
            name: located(path, file.fileno(), listed, size_bytes)
            for name, listed in directory.records.items()
        }
    return Archive(path, directory.prefix, records)


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
