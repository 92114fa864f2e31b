"""What was found out about a file: the common ground of verify, describe and load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.pth._archive import Archive
from linnaeus.pth._directory import Directory
from linnaeus.pth._document import Document, TensorInfo
from linnaeus.pth._globals import unsafe

if TYPE_CHECKING:
    from linnaeus.pth._sharded import Sharded


@dataclass(frozen=True, slots=True)
class Examination:
    """What a file is.

    Attributes:
        path: The file.
        kind: Who wrote it in which format.
        size_bytes: Of the whole file.
        tensors: Every tensor with its place.
        keys: The keys at the top of the object, when it is a dict.
        about: What the file says of its run.
        archive: Its records; None for the old format, and where only the description was read.
        document: Its own description; None for files that linnaeus did not write.
        refused: Names that its pickle asks for beyond data, where the pickle was looked at.
        replaced: Names of classes that hold only data, for which plain values stand in.
        tree: The object with stubs for tensors, where the pickle was looked at.
        sharded: What is known of a checkpoint in several files.
        directory: What the archive lists, where only that was read of it.
    """

    path: Path
    kind: str
    size_bytes: int
    tensors: tuple[TensorInfo, ...]
    keys: tuple[str, ...]
    about: Mapping[str, Any]
    archive: Archive | None = None
    document: Document | None = None
    refused: Sequence[str] = ()
    replaced: frozenset[str] = frozenset()
    tree: Any = None
    sharded: Sharded | None = None
    directory: Directory | None = None

    def require_safe(self) -> None:
        """Check that the file asks for nothing but data.

        Raises:
            UnsafeCheckpointError: Its pickle names other things; nothing of it was executed.
        """
        if self.refused:
            raise unsafe(self.path, self.refused)
