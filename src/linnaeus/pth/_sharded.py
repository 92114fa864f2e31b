"""A directory of shards as a checkpoint: ours, or one that plain `torch.distributed.checkpoint` wrote.

Ours has a commit file, which describes it. Neither torch nor unpickling is needed to tell what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError, UnsupportedFormatError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._commit_file import (
    COMMIT,
    SHARDED,
    Commit,
    check_digests,
    check_sizes,
    damaged,
    incomplete,
    read_commit,
)
from linnaeus.pth._dcp_metadata import METADATA, Index, Place, read_index
from linnaeus.pth._document import RECORD
from linnaeus.pth._parted import PartedTensor

PLAIN = "torch.distributed.checkpoint"


@dataclass(frozen=True, slots=True)
class Sharded:
    """What a directory holds.

    Attributes:
        path: The directory.
        index: What its metadata tells.
        commit: What its commit file tells; None where linnaeus did not write it.
        absent: The files that are with other nodes.
    """

    path: Path
    index: Index
    commit: Commit | None
    absent: frozenset[str] = frozenset()

    def parted(self, name: str) -> PartedTensor:
        """Return a tensor by its name in the metadata."""
        return PartedTensor.of(self.path, self.index.tensors[name])

    def path_of(self, name: str) -> tuple[str | int, ...]:
        """Return the keys that lead to a name."""
        return self.index.paths.get(name, (name,))


def open_directory(path: Path, *, partly: bool = False) -> Sharded:
    """Read what a directory holds, and check that commit file, metadata and sizes tell the same.

    Args:
        path: The directory.
        partly: Take also a part of a checkpoint, whose other files are with other nodes.

    Raises:
        CorruptCheckpointError: It was never finished, or is damaged.
        IncompleteCheckpointError: It is a part.
        UnsafeCheckpointError: Its metadata asks for code.
        UnsupportedFormatError: It is no checkpoint, or of a newer version.
        CheckpointInvalidError: It can't be read.
    """
    commit = read_commit(path)
    if commit is None and path.suffix == SHARDED:
        raise CorruptCheckpointError(
            path=str(path), problem=f"it has no {COMMIT}, so it was never finished", record=COMMIT
        )
    if commit is None and not (path / METADATA).is_file():
        raise UnsupportedFormatError(
            path=str(path),
            problem="it is a directory, and no checkpoint",
            found=f"neither {COMMIT} nor {METADATA} in it",
            supported=f"directories that linnaeus or {PLAIN} wrote",
        )
    absent = [] if commit is None else check_sizes(path, commit.files, commit.num_directories)
    if commit is not None and absent and not partly:
        raise incomplete(path, commit, absent)
    directory = Sharded(path, read_index(path), commit, frozenset(absent))
    _check_places(directory)
    if commit is not None:
        _check_names(directory, commit)
    return directory


def _check_places(directory: Sharded) -> None:
    """Check that what the metadata tells of lies inside files that are there."""
    ends: dict[str, int] = {}
    for place in places_of(directory.index):
        ends[place.file] = max(ends.get(place.file, 0), place.offset + place.length)
    for name, end in ends.items():
        if name in directory.absent:
            continue
        try:
            found = (directory.path / name).stat().st_size
        except FileNotFoundError as error:
            raise damaged(directory.path, name, f"{name} is missing") from error
        except OSError as error:
            raise not_readable(directory.path / name, error) from error
        if found < end:
            raise damaged(directory.path, name, f"{name} is cut short: {found:,} bytes of {end:,} or more")


def places_of(index: Index) -> Iterator[Place]:
    """Yield where everything is."""
    for entry in index.tensors.values():
        yield from (part.place for part in entry.parts)
    yield from index.values.values()


def _check_names(directory: Sharded, commit: Commit) -> None:
    for name, (key, dtype, shape, *_) in zip(commit.names, commit.document.tensors, strict=True):
        entry = directory.index.tensors.get(name)
        if key is None:
            continue
        if entry is None or entry.dtype != dtype or list(entry.shape) != shape:
            raise CorruptCheckpointError(
                path=str(directory.path),
                problem="commit file and metadata don't tell the same",
                record=RECORD,
                tensor=name,
            )


def has_checksums(directory: Sharded) -> bool:
    """Tell whether its bytes can be compared with anything."""
    return directory.commit is not None or any(
        directory.parted(name).has_sums() for name in directory.index.tensors
    )


def check_content(directory: Sharded) -> None:
    """Read every byte and compare it with what was recorded, where anything was.

    Raises:
        CorruptCheckpointError: Something is damaged.
        CheckpointInvalidError: A file can't be read.
    """
    if directory.commit is not None:
        here = {n: one for n, one in directory.commit.files.items() if n not in directory.absent}
        check_digests(directory.path, here)
        return
    for name in directory.index.tensors:
        directory.parted(name).check_sums()


def nested(directory: Sharded, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object that a plain directory holds, for some of its leaves by name."""
    root: dict[str, Any] = {}
    for name, leaf in leaves.items():
        path = directory.path_of(name)
        node: Any = root
        for key, following in pairwise(path):
            node = _inside(node, key, {} if isinstance(following, str) else [])
        _set(node, path[-1], leaf)
    made: dict[str, Any] = _with_numbers(root)
    return made


def _inside(node: Any, key: str | int, made: Any) -> Any:
    if isinstance(node, dict):
        return node.setdefault(key, made)
    _set(node, key, node[key] if isinstance(key, int) and len(node) > key and node[key] is not None else made)
    return node[key]


def _set(node: Any, key: str | int, value: Any) -> None:
    if isinstance(node, list) and isinstance(key, int):
        node += [None] * (key + 1 - len(node))
    node[key] = value


def _with_numbers(node: Any) -> Any:
    """Return a state in which optimizers' states have numbers for keys again, which are texts there."""
    if isinstance(node, list):
        return [_with_numbers(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _with_numbers(item) for key, item in node.items()}
    states = made.get("state")
    if "param_groups" in made and isinstance(states, dict) and all(str(key).isdecimal() for key in states):
        made["state"] = {int(key): state for key, state in states.items()}
    return made
