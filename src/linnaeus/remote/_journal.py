"""What of a large file is already on disk: so that a cut or a killed process costs only what was on its way.

A directory holds the file in the making, what it is a copy of, and how far each of its spans has come. The
numbers are written after the bytes that they count, so whoever is killed leaves them too small, never too
large. A power loss may leave them too large; the digest of the whole file tells, and then it begins again.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.remote._protocol import RemoteFile

_OF, _PROGRESS, _DATA = "of.json", "progress", "data"
_COUNT = struct.Struct("<Q")
_MEBIBYTE = 1 << 20
_SMALLEST_SPAN_BYTES = 2 * _MEBIBYTE
_LARGEST_SPAN_BYTES = 64 * _MEBIBYTE
_SPANS_PER_STREAM = 4


@dataclass(slots=True)
class Span:
    """A range of the file, from `start` to before `stop`, of which `done` bytes are on disk."""

    number: int
    start: int
    stop: int
    done: int = 0

    @property
    def position(self) -> int:
        """Where it goes on."""
        return self.start + self.done

    @property
    def is_done(self) -> bool:
        """Whether all of it is on disk."""
        return self.position >= self.stop


class Journal:
    """The file in the making; a context that holds it open.

    Args:
        directory: Its own, which exists; what an earlier download of the same object left is gone on with.
        known: The object.
        num_streams: How many will write at the same time.
    """

    def __init__(self, directory: Path, known: RemoteFile, num_streams: int) -> None:
        self._directory = directory
        self.data = directory / _DATA
        of = _identity(known)
        told = _read(directory / _OF)
        if told is None or told["object"] != of:
            for name in (_PROGRESS, _DATA):
                (directory / name).unlink(missing_ok=True)
            told = {"object": of, "span_bytes": span_bytes(known.size_bytes, num_streams)}
            (directory / _OF).write_text(json.dumps(told), encoding="utf-8")
        self.size_bytes = known.size_bytes
        size, step = known.size_bytes, int(told["span_bytes"])
        self.spans = [
            Span(number, start, min(size, start + step)) for number, start in enumerate(range(0, size, step))
        ]
        self._recall()
        self.resumed_bytes = sum(span.done for span in self.spans)

    def _recall(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            counts = (self._directory / _PROGRESS).read_bytes()
            have = self.data.stat().st_size
            for span in self.spans:
                place = span.number * _COUNT.size
                if place + _COUNT.size <= len(counts):
                    (done,) = _COUNT.unpack_from(counts, place)
                    span.done = max(0, min(done, span.stop - span.start, have - span.start))

    def __enter__(self) -> Journal:
        self._data = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._progress = os.open(self._directory / _PROGRESS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._data)
        os.close(self._progress)

    def write(self, span: Span, piece: memoryview, offset: int) -> None:
        """Keep bytes of a span that follow those it has."""
        while piece:
            count = os.pwrite(self._data, piece, offset)
            piece, offset = piece[count:], offset + count
        span.done = offset - span.start
        os.pwrite(self._progress, _COUNT.pack(span.done), span.number * _COUNT.size)

    @property
    def first_missing(self) -> int:
        """Where the first byte goes that is not on disk yet."""
        return next((span.position for span in self.spans if not span.is_done), self.size_bytes)

    def keep(self, piece: memoryview, offset: int) -> None:
        """Keep what is missing of bytes that come in order, from `first_missing` or before."""
        for span in self.spans:
            start, stop = max(offset, span.position), min(offset + len(piece), span.stop)
            if start < stop:
                self.write(span, piece[start - offset : stop - offset], start)

    def touch(self) -> None:
        """Show those who sweep that this is in use."""
        os.utime(self._directory)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read back what is on disk."""
        return os.preadv(self._data, [buffer], offset)


def span_bytes(size_bytes: int, num_streams: int) -> int:
    """Return how large a span is: small enough that all streams end at about the same time."""
    share = -(-size_bytes // (num_streams * _SPANS_PER_STREAM))
    rounded = -(-share // _MEBIBYTE) * _MEBIBYTE
    return max(_SMALLEST_SPAN_BYTES, min(_LARGEST_SPAN_BYTES, rounded))


def forget(directory: Path) -> None:
    """Drop what a download left: its bytes are wrong, and nothing tells which."""
    for name in (_OF, _PROGRESS, _DATA):
        (directory / name).unlink(missing_ok=True)


def kept_bytes(directory: Path) -> int:
    """Return how many bytes of a file are in a directory that a download left."""
    try:
        counts = (directory / _PROGRESS).read_bytes()
    except OSError:
        return 0
    whole = len(counts) // _COUNT.size * _COUNT.size
    return sum(done for (done,) in _COUNT.iter_unpack(counts[:whole]))


def _identity(known: RemoteFile) -> dict[str, Any]:
    return {
        "name": known.name,
        "size_bytes": known.size_bytes,
        "version": known.version,
        "modified": known.modified,
        "digests": dict(known.digests),
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and {"object", "span_bytes"} <= told.keys() else None
