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

from linnaeus.errors import CorruptCheckpointError, IncompleteCheckpointError
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

    def to_plain(self) -> list[Any]:
        """Return the form in which it stands in a commit file."""
        return [self.size_bytes, self.sha256]


@dataclass(frozen=True, slots=True)
class Commit:
    """What the commit file says.

    Attributes:
        files: What each other file must be.
        num_directories: Into how many directories, of nodes that share none, it was written; each of them
            has the metadata, this file, and what its own ranks wrote.
        names: Under which name `.metadata` has each tensor of the document.
        document: The description; storages have places as if they followed one another in one file.
    """

    files: Mapping[str, FileSum]
    names: Sequence[str]
    document: Document
    num_directories: int = 1


def compose_commit(
    description: bytes, files: Mapping[str, FileSum], names: Sequence[str], num_directories: int = 1
) -> bytes:
    """Return the commit file's bytes.

    Args:
        description: As `compose` returns it.
        files: What the directory holds beside.
        names: Under which name `.metadata` has each tensor.
        num_directories: As `Commit.num_directories`.
    """
    told = {name: one.to_plain() for name, one in files.items()}
    apart = {"directories": num_directories} if num_directories > 1 else {}
    head = json.dumps({"files": told, "names": list(names)} | apart, separators=(",", ":"))
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
    num_directories = _num_directories(directory, written)
    document = replace(document, written=written)
    return Commit(_files(directory, files), names, document, num_directories)


_UNBOUNDED = 1 << 63


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a commit file.

    Attributes:
        size_bytes: Of all files, wherever they are.
        written: Versions and time of writing.
        about: What it says of its run.
        num_directories: As of `Commit`.
        absent: The files that are not here, since they may be in another of these.
    """

    size_bytes: int
    written: Mapping[str, Any]
    about: Mapping[str, Any]
    num_directories: int
    absent: Sequence[str]


def read_commit_head(directory: Path) -> Head | None:
    """Return what a commit file says at its beginning; None where there is none.

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
    number = _num_directories(directory, head)
    absent = check_sizes(directory, files, number)
    return Head(len(data) + sum(one.size_bytes for one in files.values()), head, about, number, absent)


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


def _num_directories(directory: Path, written: dict[str, Any]) -> int:
    """Take out of a description in how many directories its files were written."""
    found = written.pop("directories", 1)
    if type(found) is not int or found < 1:
        raise _untrue(directory, "it tells of no number of directories")
    return found


def _untrue(directory: Path, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        path=str(directory), problem=f"its commit file can't be true ({problem})", record=COMMIT
    )


def check_sizes(directory: Path, files: Mapping[str, FileSum], num_directories: int = 1) -> list[str]:
    """Check that every file is there and has its size.

    Returns:
        Those that are not here since they may be in one of the other directories; none where there is one.

    Raises:
        CorruptCheckpointError: One is not there, or has another size.
    """
    absent = []
    for name, told in files.items():
        try:
            status = os.lstat(directory / name)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and num_directories > 1 and name != METADATA:
                absent.append(name)
                continue
            raise damaged(directory, name, f"{name} is missing ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise damaged(directory, name, f"{name} is no regular file")
        if status.st_size != told.size_bytes:
            raise damaged(
                directory, name, f"{name} has {status.st_size:,} bytes where {told.size_bytes:,} were written"
            )
    return absent


def incomplete(directory: Path, commit: Commit, absent: Sequence[str]) -> IncompleteCheckpointError:
    """Return the error for a part of a checkpoint where a whole one is needed."""
    return IncompleteCheckpointError(
        path=str(directory),
        problem=f"it was written into {commit.num_directories} directories that are not shared,"
        f" and {len(absent)} of its {len(commit.files)} files are not in this one",
        advice="Resume with TRAIN.AUTO_RESUME on the nodes that have them, or copy the files of all of these"
        " directories into one.",
        missing=list(absent),
    )


def commit_there(path: Path, data: bytes, sizes: Mapping[str, int]) -> Commit:
    """Return what the commit file of a directory that is elsewhere says, compared with the sizes there.

    Raises:
        CorruptCheckpointError: It is damaged, or tells of other files than are there.
        UnsupportedFormatError: A newer version of linnaeus wrote it.
    """
    commit = parse_commit(path, data)
    for file, told in commit.files.items():
        if sizes.get(file) != told.size_bytes:
            found = f"{sizes[file]:,} bytes" if file in sizes else "none"
            raise damaged(path, file, f"{file} should have {told.size_bytes:,} bytes, there are {found}")
    return commit


def check_digests(directory: Path, files: Mapping[str, FileSum]) -> None:
    """Read every file, on all cores, and compare it with its digest.

    Raises:
        CorruptCheckpointError: One is damaged.
        CheckpointInvalidError: One can't be read.
    """
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1) as pool:
        for name, found in zip(files, pool.map(lambda name: _sha256(directory / name), files), strict=True):
            if found != files[name].sha256:
                raise damaged(
                    directory,
                    name,
                    f"{name}: SHA-256 {files[name].sha256[:16]}… was recorded, {found[:16]}… found",
                )


def _sha256(path: Path) -> str:
    try:
        return file_digest(path, "sha256")
    except OSError as error:
        raise not_readable(path, error) from error


def damaged(directory: Path, name: str, problem: str) -> CorruptCheckpointError:
    """Return the error for one file of a directory."""
    return CorruptCheckpointError(path=str(directory), problem=problem, record=name)
