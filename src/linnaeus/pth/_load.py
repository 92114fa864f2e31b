"""From a `.pth` file to an object, by `torch.load(weights_only=True)`.

Files of older training code also hold configs and numpy numbers. Those classes hold only data, so plain
values stand in for them; anything else is refused with its name, before torch sees the file.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    UnsupportedFormatError,
)
from linnaeus.pth._archive import not_readable, open_file
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._document import Document
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import examine
from linnaeus.pth._globals import STAND_INS
from linnaeus.pth._outline import BAD_PICKLE
from linnaeus.pth._rebuild import load_described
from linnaeus.pth._safetensors import INDEX, SAFETENSORS
from linnaeus.pth._sharded_load import load_directory
from linnaeus.pth._stand_ins import REPLACEMENTS, without_stand_ins
from linnaeus.pth._tail import read_document

if TYPE_CHECKING:
    pass


def load(path: str | os.PathLike[str], *, map_location: Any = "cpu", mmap: bool = True) -> Any:
    """Load a checkpoint that any version of torch or linnaeus wrote, without running code from it.

    Safetensors files are read too.

    Args:
        path: The file.
        map_location: Where tensors go, as for `torch.load`.
        mmap: Map the file instead of reading it: bytes are read when a tensor is first touched, and
            writing to a tensor does not write to the file. The old format can't be mapped and is read.

    Returns:
        The saved object: tensors and plain containers.

    Raises:
        CheckpointNotFoundError: There is no such file.
        UnsafeCheckpointError: The file asks for code; its `globals` name what.
        CorruptCheckpointError: The file is damaged.
        UnsupportedFormatError: The file is no checkpoint.
        RuntimeError, AssertionError: Torch's own, where `map_location` names no device or one that is not
            there.
        TypeError: `map_location` is none.
    """
    file = Path(path)
    if not (map_location is None or isinstance(map_location, Mapping | str) or _can_place(map_location)):
        raise TypeError(f"map_location can't be a {type(map_location).__name__}")
    if not file.exists():
        raise CheckpointNotFoundError(identifier=str(file), places=["there is no such file"])
    if file.is_dir():
        return _load_directory(file, map_location)
    if _is_plain_place(map_location):
        with opened(file) as descriptor:
            document = own_document(file, descriptor)
            if document is not None:
                return _load_own(file, descriptor, document, map_location, mmap=mmap)
    found = examine(file)
    found.require_safe()
    if found.kind in (SAFETENSORS, INDEX):
        return _load_safetensors(found, map_location)
    return _load_pickled(found, map_location=map_location, mmap=mmap)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file once, so that all that is read is of the same one, whoever renames another over it.

    Raises:
        CheckpointInvalidError: It can't be opened.
    """
    try:
        descriptor = open_file(path)
    except OSError as error:
        raise not_readable(path, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _load_own(path: Path, descriptor: int, document: Document, map_location: Any, *, mmap: bool) -> Any:
    import torch

    from linnaeus.pth._storages import map_whole, mapped_storages, read_storages

    torch.empty(0, device=map_location)  # what is wrong with the device must not be told of the file
    if mmap:
        storages = mapped_storages(map_whole(path, descriptor), document.storages, map_location)
    else:
        storages = read_storages(descriptor, document.storages, map_location)
    return load_described(path, document, storages)


def own_document(path: Path, descriptor: int) -> Document | None:
    """Return the description of an open file of our own; anything else is for `examine` to judge.

    So is one whose bytes are not in this machine's order: torch is left to swap them.
    """
    try:
        with collection_paused():
            document = read_document(path, descriptor)
    except OSError as error:
        raise not_readable(path, error) from error
    return document if document and document.written.get("byteorder") == sys.byteorder else None


def _is_plain_place(map_location: Any) -> bool:
    """Tell whether tensors just go to one device; what torch does for anything else is left to torch."""
    return str(map_location) != "meta" and isinstance(map_location, str | _device_type())


def _can_place(map_location: Any) -> bool:
    return callable(map_location) or isinstance(map_location, _device_type())


def _device_type() -> type:
    import torch

    return torch.device


def _load_directory(path: Path, map_location: Any) -> Any:
    found = examine(path)
    found.require_safe()
    assert found.sharded is not None  # noqa: S101 - it was found to be one
    return _placed(load_directory(found.sharded), map_location)


def _placed(node: Any, map_location: Any) -> Any:
    """Return an object with its tensors where they shall be; a location that tells by storage is torch's."""
    if map_location is None or str(map_location) == "cpu":
        return node
    if not isinstance(map_location, str | _device_type()):
        raise TypeError("of a directory, map_location can only be a device")
    import torch

    if isinstance(node, torch.Tensor):
        return node.to(torch.device(str(map_location)))
    if isinstance(node, dict):
        node.update({key: _placed(value, map_location) for key, value in node.items()})
        return node
    return type(node)(_placed(item, map_location) for item in node) if type(node) in (list, tuple) else node


def _load_safetensors(found: Examination, map_location: Any) -> dict[str, Any]:
    """Return the tensors of a safetensors file, or of all that an index names, by name."""
    from linnaeus.pth._sketch import sketch_examined
    from linnaeus.pth._stored import StoredFile

    stored = sketch_examined(found, StoredFile(found.path))
    return {name: one.read().to(map_location) for name, one in stored.items()}


def _load_pickled(found: Examination, *, map_location: Any, mmap: bool) -> Any:
    import torch

    stand_ins: list[Any] = [
        (REPLACEMENTS.get(name, OrderedDict), name) for name in STAND_INS if name in found.replaced
    ]
    can_map = mmap and "before 1.6" not in found.kind and not callable(map_location) and _is_text(found.path)
    try:
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(found.path, map_location=map_location, weights_only=True, mmap=can_map)
    except pickle.UnpicklingError as error:
        raise _refusal(found, error) from error
    except (*BAD_PICKLE, RuntimeError, AssertionError, struct.error) as error:
        raise CorruptCheckpointError(
            path=str(found.path), problem=f"torch can't read it ({error})"
        ) from error
    return without_stand_ins(loaded) if stand_ins else loaded


def _is_text(path: Path) -> bool:
    """Tell whether a name is UTF-8; torch can't map a file of another."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(found: Examination, error: Exception) -> UnsafeCheckpointError | UnsupportedFormatError:
    text = str(error)
    reason = text.rsplit("WeightsUnpickler error:", 1)[-1].strip().splitlines()[0]
    if "Unsupported operand" in text:
        return UnsupportedFormatError(
            path=str(found.path),
            problem="its pickle protocol can't be read safely",
            found="protocol 3 or later",
            supported="protocol 2, the default of torch.save",
        )
    return UnsafeCheckpointError(path=str(found.path), problem="torch refuses it", globals=[reason])
