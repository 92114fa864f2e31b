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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from zlib_ng import zlib_ng

from linnaeus.errors import InsufficientSpaceError, SaveError
from linnaeus.files import (
    Recycled,
    commit,
    fsync_file,
    is_out_of_space,
    remove_file,
    require_space,
    temporary_name,
)
from linnaeus.pth._archiver import Parts, archive
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._emit import RefusedError, Storage
from linnaeus.pth._layout import directory
from linnaeus.pth._memory import memory_of
from linnaeus.pth._save_together import Ranks
from linnaeus.pth._shares import Piece, Shares, Sum, joined, packed, unpacked
from linnaeus.pth._write import PIECE_BYTES, reserve, write_all

_NOT_SHARED = "One file for all ranks needs a directory that all of them share."


class Session:
    """One save, seen from one rank."""

    def __init__(self, final: Path, shares: Shares, ranks: Ranks, *, durable: bool) -> None:
        self._final, self._shares, self._ranks, self._durable = final, shares, ranks, durable
        self._temporary: Path | None = None

    def write(self, obj: Any, about: Mapping[str, Any], recycled: Recycled | None) -> None:
        """Write this rank's pieces; return when the whole file is committed."""
        with self._told(), collection_paused():
            parts = archive(obj, about)
        storages = [content for content in parts.contents if isinstance(content, Storage)]
        plan = self._ranks.agree(
            f"laying out {self._final}",
            lambda: {"digest": self._digest(storages), "rank": self._ranks.rank, "odd": []},
            merge=_same,
            conclude=lambda said: self._begin(parts, said["odd"], recycled),
        )
        self._temporary = Path(plan["temporary"])
        # Other ranks' pickles may be of another length, since plain values may differ.
        shift = plan["first"] - _offsets(parts)[0] if storages else 0
        offsets = [offset + shift for offset in _offsets(parts)]
        self._ranks.agree(
            f"writing {self._final}",
            lambda: packed(self._pieces(storages, offsets)),
            merge=lambda many: packed(joined(sums for one in many for sums in unpacked(one))),
            conclude=lambda sums: self._end(parts, unpacked(sums)),
        )

    def _digest(self, storages: Sequence[Storage]) -> str:
        """Return what all ranks must have in common."""
        kinds = [(storage.size_bytes, self._shares.kind(storage.source)) for storage in storages]
        return hashlib.sha256(f"{sys.byteorder} {kinds}".encode()).hexdigest()

    def _begin(self, parts: Parts, odd: Sequence[int], recycled: Recycled | None) -> dict[str, Any]:
        if odd:
            raise SaveError(
                path=str(self._final),
                problem=f"ranks {', '.join(map(str, odd[:16]))} hold other tensors than rank 0",
                advice="Every rank must save the same parts with the same names and shapes.",
            )
        self._temporary = recycled.path if recycled else temporary_name(self._final)
        with self._told():
            if recycled is None:
                require_space(self._final, parts.size_bytes)
            with _open(self._temporary, os.O_RDWR | os.O_CREAT) as descriptor:
                reserve(descriptor, parts.size_bytes)
        return {"temporary": str(self._temporary), "first": next(iter(_offsets(parts)), 0)}

    def _pieces(self, storages: Sequence[Storage], offsets: Sequence[int]) -> Iterator[Sum]:
        """Write this rank's pieces and yield their checksums."""
        assert self._temporary is not None  # noqa: S101 - set when the layout was agreed on
        pieces = self._shares.pieces(storages, self._ranks.rank, self._ranks.world_size)
        with self._told(), _open(self._temporary, os.O_RDWR) as descriptor:
            for key, piece in pieces:
                crc32 = _write(descriptor, piece, offsets[key] + piece.start)
                yield Sum(key, piece.start, piece.size_bytes, crc32)
        if self._durable:  # on a filesystem of several machines each must do so for what it wrote
            with self._told():
                fsync_file(self._temporary)

    def _end(self, parts: Parts, sums: Sequence[Sum]) -> None:
        """Write everything that is no payload of a storage, and commit."""
        assert self._temporary is not None  # noqa: S101 - set when the layout was agreed on
        crc32s = self._complete(parts, sums)
        with self._told():
            with _open(self._temporary, os.O_RDWR) as descriptor:
                for entry, content, crc32 in zip(parts.entries, parts.contents, crc32s, strict=True):
                    write_all(descriptor, memoryview(entry.header), entry.header_offset)
                    if isinstance(content, bytes):
                        write_all(descriptor, memoryview(content), entry.offset)
                    write_all(
                        descriptor, memoryview(entry.descriptor(crc32)), entry.offset + entry.size_bytes
                    )
                write_all(descriptor, memoryview(directory(parts.entries, crc32s)), parts.entries[-1].end)
            commit(self._temporary, self._final, durable=self._durable)

    def _complete(self, parts: Parts, sums: Sequence[Sum]) -> list[int]:
        """Return each record's CRC-32, having checked that every byte of every storage was written once."""
        whole = {one.key: one.crc32 for one in sums if one.start == 0}
        written = sorted((one.key, one.start, one.size_bytes) for one in sums)
        storages = [content for content in parts.contents if isinstance(content, Storage)]
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

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Make an error of ours of what the system refuses and the format can't hold."""
        try:
            yield
        except RefusedError as error:
            raise SaveError(
                path=str(self._final),
                problem=f"{error}, which a safe checkpoint can't hold",
                advice="Store plain values in its place.",
            ) from error
        except FileNotFoundError as error:
            raise SaveError(
                path=str(self._final),
                problem=f"rank {self._ranks.rank} does not see the file that rank 0 made",
                advice=_NOT_SHARED,
            ) from error
        except OSError as error:
            if is_out_of_space(error):
                raise InsufficientSpaceError(
                    path=str(self._final), problem=f"the disk became full on rank {self._ranks.rank}"
                ) from error
            raise SaveError(path=str(self._final), problem=error.strerror or str(error)) from error


def _same(said: list[Any]) -> Any:
    """Merge what ranks say of their storages: the first one's word, and who says another."""
    first = said[0]
    odd = [rank for one in said for rank in one["odd"]]
    odd += [one["rank"] for one in said if one["digest"] != first["digest"]]
    return first | {"odd": odd}


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


def _write(descriptor: int, piece: Piece, position: int) -> int:
    """Write a piece and return its CRC-32."""
    crc32 = 0
    for part in _memory(piece.source):
        crc32 = zlib_ng.crc32(part, crc32)
        write_all(descriptor, part, position)
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
