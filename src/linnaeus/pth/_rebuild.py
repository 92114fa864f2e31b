"""Objects out of what is known to be good: a description with raw bytes, or a small archive inside a file."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from linnaeus.errors import CorruptCheckpointError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._document import RECORD, Document
from linnaeus.pth._globals import STAND_INS
from linnaeus.pth._outline import BAD_PICKLE
from linnaeus.pth._stand_ins import REPLACEMENTS, without_stand_ins

if TYPE_CHECKING:
    import torch


def load_stream(stream: BinaryIO, path: Path, replaced: Iterable[str]) -> Any:
    """Load one of torch's archives that lies inside another file, which was looked at before.

    Args:
        stream: Its bytes.
        path: Where they come from, for messages.
        replaced: The classes that it asks for for which plain values stand in.

    Raises:
        CheckpointInvalidError: Torch refuses it, or it is damaged.
    """
    import torch

    stand_ins: list[Any] = [
        (REPLACEMENTS.get(name, OrderedDict), name) for name in STAND_INS if name in replaced
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(stream, map_location="cpu", weights_only=True)
    except (*BAD_PICKLE, RuntimeError, AssertionError, struct.error) as error:
        raise CorruptCheckpointError(path=str(path), problem=f"torch can't read a value ({error})") from error
    return without_stand_ins(loaded) if stand_ins else loaded


def load_described(path: Path, document: Document, storages: Callable[[int], torch.UntypedStorage]) -> Any:
    """Load a file of our own from its description and its raw records: nothing is unpickled.

    Raises:
        CorruptCheckpointError: The description can't be true, or the file became shorter.
    """
    from linnaeus.pth._build import LyingError, build

    try:
        with collection_paused():
            return build(document.tree, document.tensors, storages)
    except LyingError as error:
        raise CorruptCheckpointError(
            path=str(path), problem=f"its description can't be true ({error})", record=RECORD
        ) from error
    except OSError as error:
        raise not_readable(path, error) from error
