"""Is this file a whole checkpoint? Three depths: structure, every byte, finite numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._examination import Examination
from linnaeus.pth._examine import examine
from linnaeus.pth._sharded import check_content, has_checksums
from linnaeus.pth._skeleton import check_skeleton

_NUM_NAMED = 5


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    `error` is None for a good file. `checked` says how far the check went: "content" when every
    byte was compared with a checksum, "structure" when the file carries none or none were asked for.
    """

    path: Path
    kind: str
    checked: str
    size_bytes: int
    num_tensors: int
    error: CheckpointInvalidError | None

    @property
    def ok(self) -> bool:
        """Whether the file is whole and safe."""
        return self.error is None

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "path": str(self.path),
            "ok": self.ok,
            "kind": self.kind,
            "checked": self.checked,
            "size_bytes": self.size_bytes,
            "num_tensors": self.num_tensors,
            "problem": None if self.error is None else str(self.error),
        }


def require_valid(path: str | os.PathLike[str], *, content: bool = True, partly: bool = False) -> Examination:
    """Check that a file is a whole, safe checkpoint.

    Args:
        path: The file.
        content: Also read every byte and compare it with its checksum, where the format has one.
        partly: Of a directory of shards, take also the part that a node without a shared directory has.

    Raises:
        CorruptCheckpointError: It is damaged.
        IncompleteCheckpointError: It is a part.
        UnsafeCheckpointError: It asks for code.
        UnsupportedFormatError: It is something else than a checkpoint.
    """
    examination = examine(Path(path), thoroughly=content, partly=partly)
    examination.require_safe()
    if content and examination.sharded is not None:
        check_content(examination.sharded)
    damage = _first_damaged(examination) if content else None
    if damage is not None:
        raise _with_tensor(damage, examination)
    return examination


def _first_damaged(examination: Examination) -> CorruptCheckpointError | None:
    archive = examination.archive
    if archive is None or not archive.has_checksums:
        return None
    try:
        with examination.path.open("rb", buffering=0) as file:
            check_skeleton(examination.path, file.fileno(), archive)
        return archive.first_damaged()
    except OSError as error:  # a bad sector, a file server that went away
        raise not_readable(examination.path, error) from error


def _has_checksums(examination: Examination) -> bool:
    if examination.sharded is not None:
        return has_checksums(examination.sharded)
    return examination.archive is not None and examination.archive.has_checksums


def _with_tensor(damage: CorruptCheckpointError, examination: Examination) -> CorruptCheckpointError:
    names = [tensor.name for tensor in examination.tensors if tensor.record == damage.record]
    return CorruptCheckpointError(
        path=damage.path, problem=damage.problem, record=damage.record, tensor=names[0] if names else None
    )


def _require_finite(examination: Examination) -> None:
    from linnaeus.pth._finite import not_finite  # here, so that the other depths stay free of torch
    from linnaeus.pth._load import load

    names = not_finite(load(examination.path))
    if names:
        more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
        raise CheckpointInvalidError(
            path=str(examination.path),
            problem=f"NaN or infinite values in {', '.join(names[:_NUM_NAMED])}{more}",
            advice="Its bytes are as they were written; the run that wrote it had diverged.",
        )


def verify(
    path: str | os.PathLike[str], *, content: bool = True, finite: bool = False, partly: bool = False
) -> VerifyReport:
    """Examine a file and report what was found; a bad file is a finding, not an exception.

    Args:
        path: The file.
        content: Also compare every byte with its checksum, where the format has one.
        finite: Also look for NaN and infinities in floating tensors.
        partly: Of a directory of shards, take also the part that a node without a shared directory has.
    """
    try:
        found = require_valid(path, content=content, partly=partly)
        if finite:
            _require_finite(found)
    except CheckpointInvalidError as error:
        file = Path(path)
        return VerifyReport(file, "unknown", "nothing", file.stat().st_size if file.exists() else 0, 0, error)
    checked = content and _has_checksums(found)
    return VerifyReport(
        found.path,
        found.kind,
        "content" if checked else "structure",
        found.size_bytes,
        len(found.tensors),
        None,
    )
