"""From a `.pth` file to an object, by `torch.load(weights_only=True)`.

Files of older training code also hold configs and numpy numbers. Those classes hold only data, so plain
values stand in for them; anything else is refused with its name, before torch sees the file.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

from linnaeus.errors import CorruptCheckpointError, UnsafeCheckpointError, UnsupportedFormatError
from linnaeus.pth._examine import Examination, examine
from linnaeus.pth._globals import STAND_INS
from linnaeus.pth._outline import BAD_PICKLE
from linnaeus.pth._stand_ins import REPLACEMENTS, without_stand_ins


def load(path: str | os.PathLike[str], *, map_location: Any = "cpu", mmap: bool = True) -> Any:
    """Load a checkpoint that any version of torch or linnaeus wrote, without running code from it.

    Args:
        path: The file.
        map_location: Where tensors go, as for `torch.load`.
        mmap: Map the file instead of reading it: bytes are read when a tensor is first touched. The
            old format can't be mapped and is read.

    Returns:
        The saved object: tensors and plain containers.

    Raises:
        UnsafeCheckpointError: The file asks for code; its `globals` name what.
        CorruptCheckpointError: The file is damaged.
        UnsupportedFormatError: The file is no checkpoint.
    """
    found = examine(Path(path))
    found.require_safe()
    import torch  # here, so that resolving and describing stay free of it

    stand_ins: list[Any] = [
        (REPLACEMENTS.get(name, OrderedDict), name) for name in STAND_INS if name in found.outline.replaced
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(
                found.path,
                map_location=map_location,
                weights_only=True,
                mmap=mmap and found.archive is not None and _can_map(map_location),
            )
    except pickle.UnpicklingError as error:
        raise _refusal(found, error) from error
    except (*BAD_PICKLE, RuntimeError, AssertionError, struct.error) as error:
        raise CorruptCheckpointError(path=str(path), problem=f"torch can't read it ({error})") from error
    return without_stand_ins(loaded) if stand_ins else loaded


def _can_map(map_location: Any) -> bool:
    # torch maps first and copies then; a callable may want to see real storages.
    return not callable(map_location)


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
