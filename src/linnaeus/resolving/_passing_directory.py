"""Files of a directory on their way between ranks, as if they followed one another in one file.

Invariant: under its own name each file is whole, on disk, and has the digest that it must have. Until then it
has another, under which it grows from its first byte on; so its size tells how far it has come, and a cut
costs nothing that had arrived.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus import pth
from linnaeus.errors import CorruptCheckpointError
from linnaeus.files import file_digest, fsync_directory, fsync_file, make_directory, require_space, take_over
from linnaeus.resolving._admission import admit_directory
from linnaeus.resolving._passing_file import End, read_into
from linnaeus.resolving._single_flight import kept_when_cut, prepare_cache, writing_cache
from linnaeus.resolving._unfinished import room_for


@dataclass(frozen=True, slots=True)
class _Placed:
    """A file, and where its first byte is when all files follow one another."""

    name: str
    size_bytes: int
    sha256: str
    start: int

    @property
    def growing(self) -> str:
        """Its name until it is whole."""
        return f".{hashlib.sha256(self.name.encode()).hexdigest()[:16]}.arriving"


class _Row:
    """Files that follow one another."""

    def __init__(self, told: Sequence[Sequence[Any]]) -> None:
        self.files: list[_Placed] = []
        self.size_bytes = 0
        for name, size_bytes, sha256 in told:
            self.files.append(_Placed(name, size_bytes, sha256, self.size_bytes))
            self.size_bytes += size_bytes
        self._starts = [file.start for file in self.files]

    def pieces(self, piece: memoryview, at: int) -> Iterator[tuple[_Placed, memoryview, int]]:
        """Yield the files that a piece is of, with the part of each and where it begins in the file."""
        for file in self.files[max(0, bisect_right(self._starts, at) - 1) :]:
            start, stop = max(at, file.start), min(at + len(piece), file.start + file.size_bytes)
            if file.start >= at + len(piece):
                return
            if start < stop:
                yield file, piece[start - at : stop - at], start - file.start


class DirectorySource(End):
    """Files of a directory that are handed on."""

    def __init__(self, directory: Path, told: Sequence[Sequence[Any]]) -> None:
        self._directory, self._row = directory, _Row(told)
        self.first_missing = self._row.size_bytes

    def each(self, piece: memoryview, at: int) -> None:
        for file, part, offset in self._row.pieces(piece, at):
            read_into(self._directory / file.name, part, offset)

    def told(self, start: int) -> None:
        return None


class FilesArrival(End):
    """Files in the making, in a directory that somebody else gives its name.

    Args:
        places: The directory, and the one where files grow.
        told: What they must be.
        what: What it is for, for messages.
        is_private: Whether what is there was put there by an earlier try; else all files come anew.
    """

    def __init__(
        self, places: tuple[Path, Path], told: Sequence[Sequence[Any]], what: str, *, is_private: bool
    ) -> None:
        (self._directory, self._nursery), self._row, self._what = places, _Row(told), what
        self._sums: dict[str, hashlib._Hash] = {}
        whole = (file.name for file in self._row.files if is_private and (places[0] / file.name).is_file())
        self._whole = frozenset(whole)
        self.first_missing = self._first_missing() if is_private else 0

    def _first_missing(self) -> int:
        for file in self._row.files:
            have = pth.size_of(self._nursery / file.growing)
            if file.name not in self._whole and have < file.size_bytes:
                return file.start + have
        return self._row.size_bytes

    def each(self, piece: memoryview, at: int) -> None:
        with writing_cache(self._directory.parent):
            for file, part, offset in self._row.pieces(piece, at):
                if file.name not in self._whole:  # of which another rank may lack some
                    self._keep(file, part, offset)

    def _keep(self, file: _Placed, part: memoryview, offset: int) -> None:
        """Write some bytes, also where they are already: the digest is of what came."""
        with (self._nursery / file.growing).open("r+b" if offset else "wb", buffering=0) as growing:
            at, rest = offset, part
            while rest:
                count = os.pwrite(growing.fileno(), rest, at)
                at, rest = at + count, rest[count:]
        if offset == 0:
            self._sums[file.name] = hashlib.sha256()
        if file.name in self._sums:
            self._sums[file.name].update(part)
            if at == file.size_bytes:
                self._require(file, self._sums[file.name].hexdigest())

    def _require(self, file: _Placed, found: str) -> None:
        if found != file.sha256:
            (self._nursery / file.growing).unlink()
            raise CorruptCheckpointError(
                path=f"{file.name} as it arrived ({self._what})",
                problem=f"its SHA-256 is {found}, not {file.sha256}",
                record=file.name,
            )

    def publish(self, start: int, told: Any) -> str | None:
        """Give each file its name, in order; the directory is somebody else's, so it has no digest here."""
        with writing_cache(self._directory.parent):
            for file in self._row.files:
                if file.name not in self._whole:
                    self._name(file)
        return None

    def _name(self, file: _Placed) -> None:
        growing = self._nursery / file.growing
        if not file.size_bytes:
            growing.touch()
        if file.name not in self._sums:  # of which an earlier try had brought some
            self._require(file, file_digest(growing, "sha256"))
        fsync_file(growing)
        take_over(growing, self._directory / file.name)
        fsync_directory(self._directory)


class DirectoryArrival(FilesArrival):
    """A whole directory in the making, published as a download is."""

    def __init__(
        self,
        places: tuple[Path, Path],
        told: Sequence[Sequence[Any]],
        what: str,
        final: Path,
        expected: str | None,
    ) -> None:
        super().__init__(places, told, what, is_private=True)
        self._final, self._expected = final, expected

    def publish(self, start: int, told: Any) -> str | None:
        super().publish(start, told)
        with writing_cache(self._final.parent):
            return admit_directory(self._directory, self._final, self._what, expected=self._expected)


@contextlib.contextmanager
def arriving_directory(
    told: dict[str, Any], final: Path, what: str, expected: str | None
) -> Iterator[DirectoryArrival]:
    """Prepare for a whole directory to come; what an earlier try left of the same one is gone on with."""
    with kept_when_cut(final, prepare_cache(final.parent)) as private:
        with writing_cache(final.parent):
            places = room_for(private, told["files"])
            arrival = DirectoryArrival(places, told["files"], what, final, expected)
        require_space(final, told["size_bytes"] - arrival.first_missing)
        yield arrival


def arriving_files(told: dict[str, Any], directory: Path, what: str) -> FilesArrival:
    """Prepare for some files to come into a directory."""
    with writing_cache(directory.parent):
        make_directory(directory)
        require_space(directory / "file", told["size_bytes"])
        return FilesArrival((directory, directory), told["files"], what, is_private=False)
