"""An object and what is said of it, laid out as an archive and ready to be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.pth._document import RECORD, compose
from linnaeus.pth._emit_tensors import emit
from linnaeus.pth._layout import ALIGNMENT, Entry, append, directory_bytes, place
from linnaeus.pth._write import Content, Reader, serialization_id, write_archive

PREFIX = "archive/"


@dataclass(frozen=True, slots=True)
class Parts:
    """All records of a file and their places; `size_bytes` is that of the whole file."""

    entries: Sequence[Entry]
    contents: Sequence[Content]
    size_bytes: int

    def write(self, path: Path, reader: Reader | None = None, *, durable: bool = True) -> dict[int, int]:
        """Write the file; an existing one is written over.

        Args:
            path: Where to.
            reader: How to read storages that somebody else may change meanwhile.
            durable: An fsync will follow.

        Returns:
            The CRC-32 of each storage, by its `_cdata`.

        Raises:
            OSError: The system refused, for example because the disk is full.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            crc32s = write_archive(
                descriptor, self.entries, self.contents, self.size_bytes, reader, durable=durable
            )
        finally:
            os.close(descriptor)
        return {
            content.source._cdata: crc32
            for content, crc32 in zip(self.contents, crc32s, strict=True)
            if not isinstance(content, bytes)
        }


def archive(obj: Any, about: Mapping[str, Any]) -> Parts:
    """Take an object apart and lay it out.

    The records are those of `torch.save`, in its order, followed by the description.

    Raises:
        RefusedError: It holds something that a safe file can't.
    """
    emission = emit(obj)
    sizes = [storage.size_bytes for storage in emission.storages]
    before: list[tuple[str, Content]] = [
        ("data.pkl", emission.pickle),
        (".format_version", b"1"),
        (".storage_alignment", str(ALIGNMENT).encode()),
        ("byteorder", sys.byteorder.encode()),
    ]
    records = before + [(f"data/{storage.key}", storage) for storage in emission.storages]
    records += [("version", b"3\n"), (".data/serialization_id", serialization_id(emission.pickle, sizes))]
    entries = place((PREFIX + name, _size(content)) for name, content in records)
    data = entries[len(before) : len(before) + len(sizes)]
    document = compose(
        emission.tensors, emission.tree, [(entry.offset, entry.size_bytes) for entry in data], about
    )
    append(entries, PREFIX + RECORD, len(document))
    contents = [content for _, content in records] + [document]
    return Parts(entries, contents, entries[-1].end + directory_bytes(entries))


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.size_bytes
