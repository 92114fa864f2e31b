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
        header: The local header, from `header_offset` up to `offset`.
    """

    name: str
    size_bytes: int
    header_offset: int
    offset: int
    header: bytes

    @property
    def _is_large(self) -> bool:
        return self.size_bytes >= _LIMIT32 or self.header_offset >= _LIMIT32

    @property
    def end(self) -> int:
        """Where the next record's header begins."""
        if not self.size_bytes:
            return self.offset
        return self.offset + self.size_bytes + (_DESCRIPTOR64 if self._is_large else _DESCRIPTOR).size

    def descriptor(self, crc32: int) -> bytes:
        """Return what follows the payload."""
        if not self.size_bytes:
            return b""
        form = _DESCRIPTOR64 if self._is_large else _DESCRIPTOR
        return form.pack(b"PK\x07\x08", crc32, self.size_bytes, self.size_bytes)

    @property
    def extra_bytes(self) -> int:
        """How long the zip64 part of the directory's entry is."""
        sizes = 16 * (self.size_bytes >= _LIMIT32) + 8 * (self.header_offset >= _LIMIT32)
        return sizes + _EXTRA.size if sizes else 0

    def central(self, crc32: int) -> bytes:
        """Return the entry of the central directory."""
        large = self.size_bytes >= _LIMIT32
        far = self.header_offset >= _LIMIT32
        extra = struct.pack("<QQ", self.size_bytes, self.size_bytes) if large else b""
        extra += struct.pack("<Q", self.header_offset) if far else b""
        extra = _EXTRA.pack(1, len(extra)) + extra if extra else b""
        size = min(self.size_bytes, _LIMIT32)
        name = self.name.encode()
        return (
            _CENTRAL.pack(
                b"PK\x01\x02", 0, 0, _flags(self.size_bytes), 0, 0, 0, crc32, size, size,
                len(name), len(extra), 0, 0, 0, 0, min(self.header_offset, _LIMIT32),
            )
            + name
            + extra
        )  # fmt: skip


def place(names_and_sizes: Iterable[tuple[str, int]]) -> list[Entry]:
    """Return the place of each record, in the order given."""
    entries: list[Entry] = []
    for name, size_bytes in names_and_sizes:
        append(entries, name, size_bytes)
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
    extra = _EXTRA.pack(1, len(sizes)) + sizes if sizes else b""
    start = position + _LOCAL.size + len(encoded) + len(extra) + _EXTRA.size
    padding = -start % ALIGNMENT
    extra += _EXTRA.pack(_PADDING_ID, padding) + b"Z" * padding
    # Zero, as in torch's own files: the sizes stand in the extra field or behind the payload.
    header = _LOCAL.pack(b"PK\x03\x04", 0, _flags(size_bytes), 0, 0, 0, 0, 0, 0, len(encoded), len(extra))
    return Entry(name, size_bytes, position, start + padding, header + encoded + extra)


def directory(entries: Sequence[Entry], crc32s: Sequence[int]) -> bytes:
    """Return the end of the archive: the central directory and what points to it."""
    start = entries[-1].end if entries else 0
    central = b"".join(entry.central(crc32) for entry, crc32 in zip(entries, crc32s, strict=True))
    return central + _end(len(entries), start, len(central))


def directory_bytes(entries: Sequence[Entry]) -> int:
    """Return how long `directory` will be, before any checksum is known."""
    start = entries[-1].end if entries else 0
    central = sum([_CENTRAL.size + len(entry.name.encode()) + entry.extra_bytes for entry in entries])
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
