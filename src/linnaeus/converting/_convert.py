"""From one file to another, in the formats that their suffixes name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus import pth
from linnaeus.errors import SaveError, UnsafeCheckpointError, UnsupportedFormatError
from linnaeus.files import remove_file, temporary_name

if TYPE_CHECKING:
    from torch import Tensor

_SAFETENSORS = ".safetensors"
# What can be written; a source of any other suffix is taken for a `.pth` and examined.
SUFFIXES = (".pth", ".pt", pth.SHARDED, _SAFETENSORS)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done.

    Attributes:
        source: The file that was read.
        target: The file that was written.
        num_tensors: How many tensors are in it.
        size_bytes: Of the written file.
        left_out: Names of what the source holds and the target does not.
        trusted: Whether code of the source was run.
    """

    source: Path
    target: Path
    num_tensors: int
    size_bytes: int
    left_out: tuple[str, ...] = ()
    trusted: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dataclasses.asdict(self) | {
            "source": str(self.source),
            "target": str(self.target),
            "left_out": list(self.left_out),
        }


def is_safetensors(path: Path) -> bool:
    """Tell whether a file's name says that it is of the safetensors format."""
    return path.suffix == _SAFETENSORS


def convert(
    source: Path, target: Path, *, everything: bool = False, trust: bool = False, replace: bool = False
) -> Conversion:
    """Write a checkpoint in the format that the target's suffix names.

    Args:
        source: A `.safetensors`, a `.pth` of any version of torch, or a directory of shards.
        target: A `.safetensors`, which takes tensors and texts only; or a `.pth` or `.sharded`, whole and
            safe.
        everything: Into safetensors: every tensor under its dotted name; else only the weights.
        trust: Run the code of a source that asks for it, in a process of its own.
        replace: Write over an existing target.

    Raises:
        CheckpointInvalidError: The source is no checkpoint, damaged, or unsafe and not trusted.
        IncompatibleWeightsError: Only weights were asked for, and there are none.
        SaveError: The target exists, can't hold what the source does (its place is named), or the system
            refused.
    """
    if target.exists() and not replace:
        raise SaveError(
            path=str(target), problem="it exists already", advice="Replace it with --force, or name another."
        )
    if is_safetensors(source):
        return _from_safetensors(source, target)
    about = pth.describe(source).about
    try:
        pth.require_valid(source)  # or damaged bytes would get checksums that call them whole
        if _is_directory(target) or (source.is_dir() and not is_safetensors(target)):
            return _streamed(about, source, target)
        obj = pth.load(source)
    except (UnsafeCheckpointError, UnsupportedFormatError) as error:
        if not trust:
            error.advice = "Or let linnaeus do that in a process of its own: linnaeus convert --trust."
            raise
        return _convert_trusted(about, source, target, everything=everything)
    return _write(obj, about, source, target, everything=everything)


def _is_directory(path: Path) -> bool:
    return path.suffix == pth.SHARDED


def _streamed(about: Mapping[str, Any], source: Path, target: Path, *, trusted: bool = False) -> Conversion:
    """Convert from or to a directory of shards, a bounded part at a time."""
    rewrite = pth.rewrite_as_directory if _is_directory(target) else pth.rewrite_as_file
    rewrite(source, target, about=about)
    return _done(source, target, trusted=trusted)


def _write(obj: Any, about: Mapping[str, Any], source: Path, target: Path, *, everything: bool) -> Conversion:
    if is_safetensors(target):
        return _to_safetensors(obj, about, source, target, everything=everything)
    pth.save(obj, target, about=about)
    return _done(source, target)


def _done(source: Path, target: Path, left_out: tuple[str, ...] = (), *, trusted: bool = False) -> Conversion:
    """Return the report of a written `.pth` or directory."""
    written = pth.describe(target)
    return Conversion(source, target, len(written.tensors), written.size_bytes, left_out, trusted)


def _convert_trusted(about: Mapping[str, Any], source: Path, target: Path, *, everything: bool) -> Conversion:
    if not is_safetensors(target) and not _is_directory(target):
        pth.rewrite_trusted(source, target, about=about)
        return _done(source, target, trusted=True)
    safe = temporary_name(target.with_suffix(".pth"))
    try:
        pth.rewrite_trusted(source, safe)
        if _is_directory(target):
            return _streamed(about, safe, target, trusted=True)
        made = _write(pth.load(safe), about, source, target, everything=everything)
    finally:
        remove_file(safe)
    return dataclasses.replace(made, trusted=True)


def _from_safetensors(source: Path, target: Path) -> Conversion:
    from linnaeus.converting._safetensors import read

    tensors, about = read(source)
    if _is_directory(target):
        pth.save_sharded(tensors, target, about=about)
    else:
        pth.save(tensors, target, about=about)
    return _done(source, target)


def _to_safetensors(
    obj: Any, about: Mapping[str, Any], source: Path, target: Path, *, everything: bool
) -> Conversion:
    from linnaeus.converting._safetensors import write

    tensors, left_out = _every_tensor(obj) if everything else _weights(obj, source)
    write(tensors, about, target)
    return Conversion(source, target, len(tensors), target.stat().st_size, left_out)


def _every_tensor(obj: Any) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    found = pth.leaves(obj)
    return found.tensors, tuple(found.values)


def _weights(obj: Any, source: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    from linnaeus.pretrained import unwrap

    found, every = unwrap(obj, str(source)), pth.leaves(obj)
    taken = {f"{found.container}.{name}" if found.container else name for name in found.tensors}
    names = (*every.tensors, *every.values)
    return found.tensors, tuple(name for name in names if name not in taken)
