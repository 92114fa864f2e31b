"""One file on its way between ranks: where its bytes are, and where they arrive.

What arrived before a cut is kept with a journal, as a download's is, and gone on with the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError
from linnaeus.files import file_digest, require_space
from linnaeus.remote import Journal, RemoteFile, kept_bytes
from linnaeus.resolving._admission import admit
from linnaeus.resolving._single_flight import kept_when_cut, prepare_cache, writing_cache


class End:
    """Where bytes come from, or go to; this one neither gives nor takes any."""

    first_missing: int = 0
    """From where on it needs bytes."""

    def each(self, piece: memoryview, at: int) -> None:
        """Give, or take, some bytes."""
        raise NotImplementedError

    def told(self, start: int) -> Any:
        """Return what the source tells at last, JSON values; bytes from `start` on went through `each`."""
        raise NotImplementedError

    def publish(self, start: int, told: Any) -> str | None:
        """Check what came, and give it its name; return its SHA-256 where it has one."""
        raise NotImplementedError


class Bystander(End):
    """A rank that takes no part."""

    def __init__(self, size_bytes: int) -> None:
        self.first_missing = size_bytes


class FileSource(End):
    """A file that is handed on."""

    def __init__(self, path: Path) -> None:
        self._path, self._digest = path, hashlib.sha256()
        self.first_missing = path.stat().st_size

    def each(self, piece: memoryview, at: int) -> None:
        read_into(self._path, piece, at)
        self._digest.update(piece)

    def told(self, start: int) -> str:
        return self._digest.hexdigest() if start == 0 else file_digest(self._path, "sha256")


def read_into(path: Path, piece: memoryview, at: int) -> None:
    """Fill a piece with a file's bytes."""
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        done = 0
        while done < len(piece):
            count = file.readinto(piece[done:])
            if not count:
                problem = "it became shorter while it was handed on"
                raise CorruptCheckpointError(path=str(path), problem=problem)
            done += count


class FileArrival(End):
    """A file in the making."""

    def __init__(self, journal: Journal, final: Path, what: str, expected: str | None) -> None:
        self._journal, self._final, self._what, self._expected = journal, final, what, expected
        self._digest = hashlib.sha256()
        self.first_missing = journal.first_missing

    def each(self, piece: memoryview, at: int) -> None:
        with writing_cache(self._final.parent):
            self._journal.keep(piece, at)
        self._digest.update(piece)

    def publish(self, start: int, told: str) -> str:
        arrived = self._journal.data
        found = self._digest.hexdigest() if start == 0 else file_digest(arrived, "sha256")
        if found != told:
            raise CorruptCheckpointError(
                path=f"{self._final.name} as it arrived ({self._what})",
                problem=f"its SHA-256 is {found}, not {told}",
            )
        with writing_cache(self._final.parent):
            admit(arrived, self._final, self._what, sha256=found, expected=self._expected)
        return found


@contextlib.contextmanager
def arriving_file(
    told: dict[str, Any], final: Path, what: str, expected: str | None
) -> Iterator[FileArrival]:
    """Prepare for a file to come."""
    known = RemoteFile(told["name"], told["size_bytes"], modified=told["modified"])
    with kept_when_cut(final, prepare_cache(final.parent)) as private:
        require_space(final, known.size_bytes - kept_bytes(private))
        with Journal(private, known, 1) as journal:
            yield FileArrival(journal, final, what, expected)
