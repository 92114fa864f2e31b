"""Look into a directory of shards and say what it is; as `_examine` does for files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnaeus.errors import UnsafeCheckpointError
from linnaeus.pth._commit_file import COMMIT, commit_there, size_of
from linnaeus.pth._dcp_items import read_item
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._examination import Examination
from linnaeus.pth._parted import contiguous_stride
from linnaeus.pth._sharded import PLAIN, Sharded, open_directory

OURS = "linnaeus, sharded"

_SCALARS = (str, int, float, bool)


def examine_directory(path: Path, *, thoroughly: bool = False, partly: bool = False) -> Examination:
    """Say what a directory is; as `examine`.

    Args:
        path: The directory.
        thoroughly: Read also every tensor's own archive, though not its bytes.
        partly: As for `open_directory`.
    """
    directory = open_directory(path, partly=partly)
    if thoroughly:
        for name in directory.index.tensors:
            directory.parted(name).check(directory.absent)
    if directory.commit is None:
        return _examined_plain(directory)
    document, files = directory.commit.document, directory.commit.files
    size_bytes = sum(one.size_bytes for one in files.values()) + (path / COMMIT).stat().st_size
    return Examination(
        path,
        OURS,
        size_bytes,
        document.infos(),
        document.keys(),
        document.about,
        document=document,
        sharded=directory,
    )


def examine_sharded_there(name: str, data: bytes, sizes: Mapping[str, int]) -> Examination:
    """Say what a directory that is elsewhere is; as `glance_sharded`."""
    commit = commit_there(Path(name), data, sizes)
    document = commit.document
    tensors, keys = document.infos(), document.keys()
    size_bytes = len(data) + sum(one.size_bytes for one in commit.files.values())
    return Examination(Path(name), OURS, size_bytes, tensors, keys, document.about, document=document)


def _examined_plain(directory: Sharded) -> Examination:
    index = directory.index
    infos = tuple(
        TensorInfo(name, one.dtype, one.shape, contiguous_stride(one.shape), 0, _first_file(one.parts))
        for name, one in index.tensors.items()
    )
    keys = dict.fromkeys(str(directory.path_of(name)[0]) for name in (*index.tensors, *index.values))
    about, refused = _values(directory)
    return Examination(
        directory.path,
        PLAIN,
        size_of(directory.path),
        infos,
        tuple(keys),
        about,
        refused=refused,
        sharded=directory,
    )


def _first_file(parts: Any) -> str | None:
    return parts[0].place.file if parts else None


def _values(directory: Sharded) -> tuple[dict[str, Any], list[str]]:
    """Return the plain values at the top, and what values ask for beyond data."""
    about: dict[str, Any] = {}
    refused: list[str] = []
    for name, place in directory.index.values.items():
        try:
            tree = read_item(directory.path, place).outline.tree
        except UnsafeCheckpointError as error:
            refused += [one for one in error.globals if one not in refused]
            continue
        path = directory.path_of(name)
        if len(path) == 1 and isinstance(tree, _SCALARS):
            about[str(path[0])] = tree
    return about, refused
