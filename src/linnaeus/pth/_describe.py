"""What a checkpoint holds, told without loading a tensor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.errors import UnsafeCheckpointError
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import examine
from linnaeus.pth._globals import unsafe


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint's content.

    Attributes:
        path: The file.
        kind: Who wrote it in which format.
        size_bytes: Of the whole file.
        keys: The keys at the top of the saved object, when it is a dict.
        tensors: Every tensor with its dotted name.
        about: What the file says of its run (epoch, step, metrics, config, …), plain values.
        written: Versions and time of writing, when linnaeus wrote it.
        unsafe: Names that its pickle asks for beyond data; empty for a safe file.
    """

    path: Path
    kind: str
    size_bytes: int
    keys: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    about: dict[str, Any]
    written: dict[str, Any]
    unsafe: tuple[str, ...]

    @property
    def num_elements(self) -> int:
        """Elements of all tensors together."""
        return sum(tensor.num_elements for tensor in self.tensors)

    def refusal(self) -> UnsafeCheckpointError | None:
        """Return the error that loading this file raises for its safety, or None for a safe file."""
        return unsafe(self.path, self.unsafe) if self.unsafe else None

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "size_bytes": self.size_bytes,
            "keys": list(self.keys),
            "about": self.about,
            "written": self.written,
            "unsafe": list(self.unsafe),
            "num_elements": self.num_elements,
            "tensors": [tensor.to_plain() for tensor in self.tensors],
        }


def describe(path: str | os.PathLike[str]) -> Description:
    """Read what a checkpoint holds: a few reads, no tensor, no torch.

    Raises:
        CheckpointInvalidError: It is no checkpoint, or damaged (see its subclasses).
    """
    return description_of(examine(Path(path), partly=True))


def description_of(found: Examination) -> Description:
    """Return the description of an examined file."""
    return Description(
        path=found.path,
        kind=found.kind,
        size_bytes=found.size_bytes,
        keys=found.keys,
        tensors=found.tensors,
        about=dict(found.about),
        written=dict(found.document.written) if found.document else {},
        unsafe=tuple(sorted(found.refused)),
    )
