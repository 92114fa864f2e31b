"""One `.pth` written by many ranks at once, each its own bytes, none of which is gathered.

All ranks walk over the same structure, so all know the storages and, once rank 0 has told how long its
pickle is, every offset. Rank 0 makes the temporary file; each rank writes its pieces into it and fsyncs; the
checksums of the pieces are combined on the way to rank 0, which writes what stands between the payloads, and
renames.

Invariant: the final name holds what it held before, or the complete new file, and every rank knows which. A
piece that nobody wrote or two wrote is found before the rename, since the pieces must join without a gap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from zlib_ng import zlib_ng

from linnaeus.errors import SaveError
from linnaeus.files import (
    Recycled,
    WriteBack,
    commit,
    fsync_directory,
    fsync_file,
    remove_file,
    require_space,
    reserve,
    temporary_name,
)
from linnaeus.pth._archiver import Parts, archive
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._emit import Storage
from linnaeus.pth._held import Held, Stillness, all_torn, require_still
from linnaeus.pth._layout import directory
from linnaeus.pth._memory import memory_of
from linnaeus.pth._ranks import Ranks
from linnaeus.pth._shares import Shares, Sum, joined, packed, unpacked
from linnaeus.pth._told import Wording, same, told
from linnaeus.pth._write import PIECE_BYTES, write_all

_WORDING = Wording(
    whole="a safe checkpoint",
    instead="Store plain values in its place.",
    made="file",
    unseen="One file for all ranks needs a directory that all of them share;"
    " SCHEDULE.CHECKPOINT.FORMAT: sharded needs none.",
)


class Session:
    """One save, seen from one rank."""

    def __init__(
        self,
        final: Path,
        shares: Shares,
        ranks: Ranks,
        *,
        durable: bool,
        held: Held | None,
        publish: Callable[[Path], object] | None,
    ) -> None:
        self._final, self._shares, self._ranks, self._durable = final, shares, ranks, durable
        self._held, self._publish = held, publish or self._commit
        self._temporary: Path | None = None
        self._still = Stillness(held, ranks)

    def write(self, obj: Any, about: Mapping[str, Any], recycled: Recycled | None) -> int:
        """Write this rank's pieces; return the size of the whole file when it is committed."""
        parts, plan = self._lay_out(obj, about, recycled)
        self._temporary = Path(plan["temporary"])
        storages, offsets = _storages(parts), _offsets(parts)
        # Other ranks' pickles may be of another length, since plain values may differ.
        shift = plan["first"] - offsets[0] if storages else 0
        said = self._ranks.agree(
            f"writing {self._final}",
            lambda: self._write_pieces(storages, [offset + shift for offset in offsets]),
            merge=_all_said,
            conclude=lambda said: self._end(parts, said),
        )
        require_still(self._final, said["torn"])
        return int(said["size_bytes"])

    def _lay_out(
        self, obj: Any, about: Mapping[str, Any], recycled: Recycled | None
    ) -> tuple[Parts, Mapping[str, Any]]:
        """Agree on the places of everything; return them and what rank 0 says of the temporary file."""
        made: list[Parts] = []

        def act() -> dict[str, Any]:
            with self._told(), collection_paused():
                made.append(archive(obj, about))
            return {"digest": self._digest(_storages(made[0])), "rank": self._ranks.rank, "odd": []}

        plan = self._ranks.agree(
            f"laying out {self._final}",
            act,
            merge=same,
            conclude=lambda said: self._begin(made[0], said["odd"], recycled),
        )
        return made[0], plan

    def _digest(self, storages: Sequence[Storage]) -> str:
        """Return what all ranks must have in common."""
        kinds = [(storage.size_bytes, self._shares.kind(storage.source)) for storage in storages]
        return hashlib.sha256(f"{sys.byteorder} {self._final.name} {kinds}".encode()).hexdigest()

    def _begin(self, parts: Parts, odd: Sequence[int], recycled: Recycled | None) -> dict[str, Any]:
        if odd:
            raise SaveError(
                path=str(self._final),
                problem=f"ranks {', '.join(map(str, odd[:16]))} hold other tensors than rank 0,"
                " or are at another step",
                advice="Every rank must save the same parts, with the same names and shapes, at one step.",
            )
        self._temporary = recycled.path if recycled else temporary_name(self._final)
        with self._told():
            if recycled is None:
                require_space(self._final, parts.size_bytes)
            with _open(self._temporary, os.O_RDWR | os.O_CREAT) as descriptor:
                reserve(descriptor, parts.size_bytes)
        return {"temporary": str(self._temporary), "first": next(iter(_offsets(parts)), 0)}

    def _write_pieces(self, storages: Sequence[Storage], offsets: Sequence[int]) -> dict[str, Any]:
        """Write what is this rank's, and wait until it is on disk; return what to tell rank 0."""
        assert self._temporary is not None  # noqa: S101 - set when the layout was agreed on
        sums: list[Sum] = []
        with self._still.noted(), self._told():
            sums = self._copy_out(storages, offsets)
            if self._durable:  # on a filesystem of several machines each must do so for what it wrote
                fsync_file(self._temporary)
        return {"sums": packed(sums), "torn": self._still.torn}

    def _copy_out(self, storages: Sequence[Storage], offsets: Sequence[int]) -> list[Sum]:
        assert self._temporary is not None  # noqa: S101 - set when the layout was agreed on
        sums, crc32s = [], {}
        pieces = self._shares.pieces(storages, self._ranks.rank, self._ranks.world_size)
        with _open(self._temporary, os.O_RDWR) as descriptor:
            back = WriteBack(descriptor) if self._durable else None
            for key, piece in pieces:
                storage = piece.source.untyped_storage()
                memory = self._held.pieces(storage) if self._held else _memory(piece.source)
                crc32 = _write(descriptor, memory, offsets[key] + piece.start, back)
                crc32s[storage._cdata] = crc32
                sums.append(Sum(key, piece.start, piece.size_bytes, crc32))
            if back is not None:
                back.begin()
        self._still.require(crc32s)
        return sums

    def _end(self, parts: Parts, said: Mapping[str, Any]) -> dict[str, Any]:
        """Write everything that is no payload of a storage, and commit; nothing of it if a rank's is torn."""
        assert self._temporary is not None  # noqa: S101 - set when the layout was agreed on
        if not said["torn"]:
            crc32s = self._complete(parts, unpacked(said["sums"]))
            with self._told():
                self._write_rest(self._temporary, parts, crc32s)
                self._publish(self._temporary)
        return {"torn": said["torn"], "size_bytes": parts.size_bytes}

    def _write_rest(self, temporary: Path, parts: Parts, crc32s: Sequence[int]) -> None:
        with _open(temporary, os.O_RDWR) as descriptor:
            for entry, content, crc32 in zip(parts.entries, parts.contents, crc32s, strict=True):
                write_all(descriptor, memoryview(entry.header), entry.header_offset)
                if isinstance(content, bytes):
                    write_all(descriptor, memoryview(content), entry.offset)
                write_all(descriptor, memoryview(entry.descriptor(crc32)), entry.offset + entry.size_bytes)
            write_all(descriptor, memoryview(directory(parts.entries, crc32s)), parts.entries[-1].end)
        if self._durable:
            fsync_file(temporary)

    def _commit(self, temporary: Path) -> None:
        commit(temporary, self._final, durable=False)
        if self._durable:
            fsync_directory(self._final.parent)  # a power loss must not forget the name

    def _complete(self, parts: Parts, sums: Sequence[Sum]) -> list[int]:
        """Return each record's CRC-32, having checked that every byte of every storage was written once."""
        whole = {one.key: one.crc32 for one in sums if one.start == 0}
        written = sorted((one.key, one.start, one.size_bytes) for one in sums)
        storages = _storages(parts)
        if written != [(storage.key, 0, storage.size_bytes) for storage in storages if storage.size_bytes]:
            raise SaveError(
                path=str(self._final),
                problem="what the ranks wrote does not join to whole tensors",
            )
        return [
            zlib_ng.crc32(content) if isinstance(content, bytes) else whole.get(content.key, 0)
            for content in parts.contents
        ]

    def clear(self, recycled: Recycled | None) -> None:
        """Remove what is left of the temporary file; any rank may, since its word is given only once."""
        for path in (self._temporary, recycled.path if recycled else None):
            if path is not None:
                with contextlib.suppress(OSError):
                    remove_file(path)

    def _told(self) -> AbstractContextManager[None]:
        return told(self._final, self._ranks.rank, _WORDING)


def _all_said(said: list[Any]) -> dict[str, Any]:
    """Merge what ranks say of their writing: neighbouring checksums, and who was torn."""
    return {
        "sums": packed(joined(one for each in said for one in unpacked(each["sums"]))),
        "torn": all_torn(said),
    }


def _storages(parts: Parts) -> list[Storage]:
    return [content for content in parts.contents if isinstance(content, Storage)]


def _offsets(parts: Parts) -> list[int]:
    return [
        entry.offset
        for entry, content in zip(parts.entries, parts.contents, strict=True)
        if isinstance(content, Storage)
    ]


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, memory: Iterable[memoryview], position: int, back: WriteBack | None) -> int:
    """Write a piece and return its CRC-32."""
    crc32 = 0
    for part in memory:
        crc32 = zlib_ng.crc32(part, crc32)
        write_all(descriptor, part, position)
        if back is not None:
            back.wrote(position, len(part))
        position += len(part)
    return crc32


def _memory(source: torch.Tensor) -> Iterator[memoryview]:
    """Yield a contiguous tensor's bytes part by part, each while it is still in the processor's cache."""
    flat = source.detach().reshape(-1).view(torch.uint8)
    for start in range(0, flat.numel(), PIECE_BYTES):
        part = flat[start : start + PIECE_BYTES]
        if part.device.type != "cpu":
            part = part.cpu()
        begin = part.storage_offset()
        yield memory_of(part.untyped_storage())[begin : begin + part.numel()]
