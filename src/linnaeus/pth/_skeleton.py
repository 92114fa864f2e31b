"""Everything in an archive that is not payload: headers, padding, descriptors, directory.

It follows from the names, sizes and checksums of the records, so it is made anew and compared byte by byte.
With the payloads checked by their checksums, no byte of the file is left that could change unseen.
"""

from __future__ import annotations

import os
from pathlib import Path

from linnaeus.errors import CorruptCheckpointError
from linnaeus.pth._archive import Archive
from linnaeus.pth._layout import Entry, directory, place


def check_skeleton(path: Path, descriptor: int, archive: Archive) -> None:
    """Compare what lies between the payloads with what must lie there.

    Archives of other writers, and of old versions of torch, are laid out in other ways; they are left alone.

    Raises:
        CorruptCheckpointError: A byte differs.
    """
    records = list(archive.records.values())
    entries = place((archive.prefix + record.name, record.size_bytes) for record in records)
    if sum(entry.offset != record.offset for entry, record in zip(entries, records, strict=True)) > 1:
        return  # one alone is damage, and shows below
    expected = directory(entries, [record.crc32 for record in records])
    end = entries[-1].end
    if os.pread(descriptor, len(expected) + 1, end) != expected:
        raise CorruptCheckpointError(path=str(path), problem="its directory is damaged")
    for entry, record in zip(entries, records, strict=True):
        if not _is_intact(descriptor, entry, record.crc32):
            raise CorruptCheckpointError(
                path=str(path), problem="bytes around a record are damaged", record=record.name
            )


def _is_intact(descriptor: int, entry: Entry, crc32: int) -> bool:
    header = os.pread(descriptor, len(entry.header), entry.header_offset)
    behind = entry.descriptor(crc32)
    return (
        header == entry.header
        and os.pread(descriptor, len(behind), entry.offset + entry.size_bytes) == behind
    )
