"""Where every byte of an archive lies. Pure: all of it follows from the names and sizes of the records.

The layout is the one that `torch.save` makes, so that readers which calculate offsets instead of looking
them up
agree: payloads aligned to 64 bytes by an extra field of the local header, sizes and checksum behind the
payload in a data descriptor, zip64 where 32 bits do not suffice.

Source: PKWARE APPNOTE 6.3.10; `torch/csrc/caffe2/serialize/inline_container.cc` (getPadding) and miniz.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

ALIGNMENT = 64
_LIMIT32 = 0xFFFFFFFF
_LIMIT16 = 0xFFFF
_UTF8_NAMES = 0x0800
_SIZES_FOLLOW = 0x0008
_MADE_BY = 0x031E
_NEEDED = 45
_PADDING_ID = 0x4246  # "FB"

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_DESCRIPTOR = struct.Struct("<4sIII")
_DESCRIPTOR64 = struct.Struct("<4sIQQ")
_EXTRA = struct.Struct("<HH")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")


class Entry(NamedTuple):  # made for each of many records, several times as fast as a frozen dataclass
    """One record's place.

    Attributes:
        name: Its name, with the archive's prefix.
        size_bytes: Of its payload.
        header_offset: Where its local header begins.
        offset: Where its payload begins; a multiple of 64.
        end: Where the next record's header begins.
        header: The local header, from `header_offset` up to `offset`.
    """

    name: str
    size_bytes: int
    header_offset: int
    offset: int
    end: int
    header: bytes

    def descriptor(self, crc32: int) -> bytes:
        """Return what follows the payload."""
        if not self.size_bytes:
            return b""
        form = _DESCRIPTOR if self.end <= _LIMIT32 else _descriptor_form(self.size_bytes, self.header_offset)
        return form.pack(b"PK\x07\x08", crc32, self.size_bytes, self.size_bytes)

    @property
    def extra_bytes(self) -> int:
        """How long the zip64 part of the directory's entry is."""
        sizes = 16 * (self.size_bytes >= _LIMIT32) + 8 * (self.header_offset >= _LIMIT32)
        return sizes + _EXTRA.size if sizes else 0

    def central(self, crc32: int) -> bytes:
        """Return the entry of the central directory."""
        name = self.name.encode()
        if self.end <= _LIMIT32:
            extra, size, header_offset = b"", self.size_bytes, self.header_offset
        else:
            extra, size, header_offset = _far(self.size_bytes, self.header_offset)
        return (
            _CENTRAL.pack(
                b"PK\x01\x02", 0, 0, _flags(size), 0, 0, 0, crc32, size, size,
                len(name), len(extra), 0, 0, 0, 0, header_offset,
            )
            + name
            + extra
        )  # fmt: skip


def _descriptor_form(size_bytes: int, header_offset: int) -> struct.Struct:
    return _DESCRIPTOR64 if size_bytes >= _LIMIT32 or header_offset >= _LIMIT32 else _DESCRIPTOR


def _far(size_bytes: int, header_offset: int) -> tuple[bytes, int, int]:
    """Return what the directory says of a record where 32 bits may not suffice: zip64 part, size, offset."""
    extra = struct.pack("<QQ", size_bytes, size_bytes) if size_bytes >= _LIMIT32 else b""
    extra += struct.pack("<Q", header_offset) if header_offset >= _LIMIT32 else b""
    extra = _EXTRA.pack(1, len(extra)) + extra if extra else b""
    return extra, min(size_bytes, _LIMIT32), min(header_offset, _LIMIT32)


def place(names_and_sizes: Iterable[tuple[str, int]]) -> list[Entry]:
    """Return the place of each record, in the order given."""
    entries: list[Entry] = []
    position = 0
    for name, size_bytes in names_and_sizes:
        entry = _place(name, size_bytes, position)
        entries.append(entry)
        position = entry.end
    return entries


def append(entries: list[Entry], name: str, size_bytes: int) -> None:
    """Place one more record behind the others."""
    entries.append(_place(name, size_bytes, entries[-1].end if entries else 0))


def _flags(size_bytes: int) -> int:
    # miniz writes no descriptor behind an empty payload.
    return _UTF8_NAMES | (_SIZES_FOLLOW if size_bytes else 0)


def _place(name: str, size_bytes: int, position: int) -> Entry:
    encoded = name.encode()
    sizes = b""
    if size_bytes >= _LIMIT32:
        sizes += struct.pack("<QQ", size_bytes, 0)  # the second is not known yet to torch's writer
    if position >= _LIMIT32:
        sizes += struct.pack("<Q", position)
    zip64 = _EXTRA.pack(1, len(sizes)) + sizes if sizes else b""
    start = position + _LOCAL.size + len(encoded) + len(zip64) + _EXTRA.size
    padding = -start % ALIGNMENT
    offset = start + padding
    head, tail = _around_name(len(encoded), len(zip64), padding, _flags(size_bytes))
    end = offset
    if size_bytes:
        end += size_bytes + _descriptor_form(size_bytes, position).size
    return Entry(name, size_bytes, position, offset, end, b"".join((head, encoded, zip64, tail)))


@lru_cache(maxsize=4096)
def _around_name(name_bytes: int, zip64_bytes: int, padding: int, flags: int) -> tuple[bytes, bytes]:
    """Return what a local header has before the name and behind the zip64 part."""
    extra_bytes = zip64_bytes + _EXTRA.size + padding
    # Zero, as in torch's own files: the sizes stand in the extra field or behind the payload.
    head = _LOCAL.pack(b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, name_bytes, extra_bytes)
    return head, _EXTRA.pack(_PADDING_ID, padding) + b"Z" * padding


def directory(entries: Sequence[Entry], crc32s: Sequence[int]) -> bytes:
    """Return the end of the archive: the central directory and what points to it."""
    start = entries[-1].end if entries else 0
    central = b"".join(entry.central(crc32) for entry, crc32 in zip(entries, crc32s, strict=True))
    return central + _end(len(entries), start, len(central))


def directory_bytes(entries: Sequence[Entry]) -> int:
    """Return how long `directory` will be, before any checksum is known."""
    start = entries[-1].end if entries else 0
    central = sum(
        [
            _CENTRAL.size
            + len(entry.name.encode())
            + (len(_far(entry.size_bytes, entry.header_offset)[0]) if entry.end > _LIMIT32 else 0)
            for entry in entries
        ]
    )
    return central + len(_end(len(entries), start, central))


def _end(count: int, start: int, size_bytes: int) -> bytes:
    end = _END.pack(
        b"PK\x05\x06", 0, 0, min(count, _LIMIT16), min(count, _LIMIT16),
        min(size_bytes, _LIMIT32), min(start, _LIMIT32), 0,
    )  # fmt: skip
    # Written always, as torch does, needed or not.
    end64 = _END64.pack(
        b"PK\x06\x06", _END64.size - 12, _MADE_BY, _NEEDED, 0, 0, count, count, size_bytes, start
    )
    return end64 + _LOCATOR64.pack(b"PK\x06\x07", 0, start + size_bytes, 1) + end
