"""The file that makes a directory a checkpoint: written last, with the size and digest of every other one.

It is the same description that a `.pth` holds as its record `linnaeus.json`, with two members more: `files`,
and a digest of its own at the very end. A directory in which it is missing, cut short or altered, or whose
files are not those that it tells of, is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError
from linnaeus.files import file_digest
from linnaeus.pth._archive import not_readable
from linnaeus.pth._dcp_metadata import METADATA
from linnaeus.pth._document import RECORD, Document, parse, parse_head

COMMIT = RECORD
# The suffix of a directory that linnaeus writes.
SHARDED = ".sharded"

_DIGEST = re.compile(rb',"digest":"([0-9a-f]{64})"\}\Z')
_DIGEST_BYTES = len(b',"digest":""}') + 64
_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\0]{1,255}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileSum:
    """What a file of the directory must be: its size, and the SHA-256 of its bytes in hex."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What the commit file says.

    Attributes:
        files: What each other file must be.
        names: Under which name `.metadata` has each tensor of the document.
        document: The description; storages have places as if they followed one another in one file.
    """

    files: Mapping[str, FileSum]
    names: Sequence[str]
    document: Document


def compose_commit(description: bytes, files: Mapping[str, FileSum], names: Sequence[str]) -> bytes:
    """Return the commit file's bytes.

    Args:
        description: As `compose` returns it.
        files: What the directory holds beside.
        names: Under which name `.metadata` has each tensor.
    """
    told = {name: [one.size_bytes, one.sha256] for name, one in files.items()}
    head = json.dumps({"files": told, "names": list(names)}, separators=(",", ":"))
    body = head[:-1].encode() + b"," + description[1:-1]
    return body + f',"digest":"{hashlib.sha256(body).hexdigest()}"}}'.encode()


def read_commit(directory: Path) -> Commit | None:
    """Return what the commit file says, checked in itself; None where there is none.

    Raises:
        CorruptCheckpointError: It is damaged, or can't be true.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    data = _bytes_of(directory)
    return None if data is None else parse_commit(directory, data)


def parse_commit(directory: Path, data: bytes) -> Commit:
    """Return what a commit file's bytes say; as `read_commit`."""
    _check_digest(directory, data)
    document = parse(directory, data, _UNBOUNDED)
    written = dict(document.written)
    files, names = written.pop("files", None), written.pop("names", None)
    del written["digest"]
    if not isinstance(names, list) or len(names) != len(document.tensors) or {*map(type, names)} - {str}:
        raise _untrue(directory, "its names are none")
    return Commit(_files(directory, files), names, replace(document, written=written))


_UNBOUNDED = 1 << 63


def read_commit_head(directory: Path) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """Return size in bytes of the whole, who wrote it, and what it says of its run; None where there is none.

    That all files are there, of the right sizes, is checked; tensors are not looked at.

    Raises:
        CorruptCheckpointError: It is damaged, or other files are there than it tells of.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    data = _bytes_of(directory)
    if data is None:
        return None
    _check_digest(directory, data)
    head, about = parse_head(directory, data)
    files = _files(directory, head.pop("files", None))
    head.pop("names", None)
    check_sizes(directory, files)
    return len(data) + sum(one.size_bytes for one in files.values()), head, about


def is_sharded(path: Path) -> bool:
    """Tell whether something is a directory of shards by what is in it, or calls itself one."""
    return path.is_dir() and (
        path.suffix == SHARDED or any((path / name).is_file() for name in (COMMIT, METADATA))
    )


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files directly in a directory; 0 for what is not there."""
    if path.is_dir():
        return sum(size_of(entry) for entry in path.iterdir() if entry.is_file())
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes_of(directory: Path) -> bytes | None:
    try:
        return (directory / COMMIT).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise not_readable(directory / COMMIT, error) from error


def _check_digest(directory: Path, data: bytes) -> None:
    told = _DIGEST.search(data[-_DIGEST_BYTES:])
    if told is None:
        raise CorruptCheckpointError(
            path=str(directory), problem="its commit file is cut short", record=COMMIT
        )
    if hashlib.sha256(data[:-_DIGEST_BYTES]).hexdigest() != told[1].decode():
        raise CorruptCheckpointError(path=str(directory), problem="its commit file is altered", record=COMMIT)


def _files(directory: Path, found: Any) -> dict[str, FileSum]:
    if not isinstance(found, dict):
        raise _untrue(directory, "it tells of no files")
    files = {}
    for name, told in found.items():
        good = isinstance(told, list) and len(told) == 2 and type(told[0]) is int and told[0] >= 0
        if (
            not good
            or not isinstance(told[1], str)
            or not _HEX.fullmatch(told[1])
            or not _NAME.fullmatch(name)
        ):
            raise _untrue(directory, "what it tells of a file is no size and digest")
        files[name] = FileSum(told[0], told[1])
    return files


def _untrue(directory: Path, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        path=str(directory), problem=f"its commit file can't be true ({problem})", record=COMMIT
    )


def check_sizes(directory: Path, files: Mapping[str, FileSum]) -> None:
    """Check that every file is there and has its size.

    Raises:
        CorruptCheckpointError: One is not, or has not.
    """
    for name, told in files.items():
        try:
            status = os.lstat(directory / name)
        except OSError as error:
            raise _damaged(directory, name, f"{name} is missing ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(directory, name, f"{name} is no regular file")
        if status.st_size != told.size_bytes:
            raise _damaged(
                directory, name, f"{name} has {status.st_size:,} bytes where {told.size_bytes:,} were written"
            )


def check_digests(directory: Path, files: Mapping[str, FileSum]) -> None:
    """Read every file, on all cores, and compare it with its digest.

    Raises:
        CorruptCheckpointError: One is damaged.
        CheckpointInvalidError: One can't be read.
    """
    check_sizes(directory, files)
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1) as pool:
        for name, found in zip(files, pool.map(lambda name: _sha256(directory / name), files), strict=True):
            if found != files[name].sha256:
                raise _damaged(
                    directory,
                    name,
                    f"{name}: SHA-256 {files[name].sha256[:16]}… was recorded, {found[:16]}… found",
                )


def _sha256(path: Path) -> str:
    try:
        return file_digest(path, "sha256")
    except OSError as error:
        raise not_readable(path, error) from error


def _damaged(directory: Path, name: str, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(directory), problem=problem, record=name)
