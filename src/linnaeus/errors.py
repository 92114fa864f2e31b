"""Every exception that linnaeus raises across a room's door, as one tree.

    LinnaeusError
    ├── ConfigError(ValueError)                      a config or a --set that can't be used
    ├── IdentifierError(ValueError)                  a name that is no checkpoint name
    ├── CheckpointNotFoundError(FileNotFoundError)   looked everywhere, found nowhere
    ├── CheckpointInvalidError(ValueError)           a file that is no usable checkpoint
    │   ├── CorruptCheckpointError                   damaged: cut short, flipped, unreadable
    │   ├── IncompleteCheckpointError                good, but a part: its other files are elsewhere
    │   ├── PinMismatchError                         whole, but not the content that its name is held to
    │   ├── UnsafeCheckpointError                    asks for code to be run
    │   └── UnsupportedFormatError                   whole, but of a kind that is not read
    ├── RemoteError(OSError)                         a bucket did not do what was asked
    │   ├── RcloneMissingError                       no rclone program on this machine
    │   ├── RemoteAuthError                          refused: credentials, permission, cap
    │   ├── RemoteConflictError                      other content stands under that name
    │   ├── RemoteNotFoundError                      no such object or bucket
    │   └── RemoteTimeoutError                       a deadline passed
    ├── SaveError(RuntimeError)                      a file was not written
    │   ├── InsufficientSpaceError                   no room for it
    │   ├── PeerFailedError                          another rank of the job failed or is missing
    │   ├── SaveTimeoutError                         the writer hangs
    │   └── TornSaveError                            what was to be saved did not hold still
    └── LoadError(RuntimeError)                      a state was not taken over
        ├── IncompatibleWeightsError                 pretrained weights that do not fit
        │   └── StitchError                          sources that do not make one model
        └── ResumeMismatchError                      a checkpoint of another run's shape

Each class also is the builtin that callers already catch. Fields are keyword arguments, kept as
attributes and made of plain types, so that every error survives pickling between processes; the
message is built from them in one place, `__str__`, and tells what failed, on what, what was
expected or tried, and what to do next. No field ever holds a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


def _rebuild(cls: type[LinnaeusError], values: dict[str, Any]) -> LinnaeusError:
    return cls(**values)


class LinnaeusError(Exception):
    """Base of all errors of linnaeus."""

    def fields(self) -> dict[str, Any]:
        """Return the error's fields by name, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Callable[..., LinnaeusError], tuple[type, dict[str, Any]]]:
        return _rebuild, (type(self), self.fields())


def error_named(name: str, values: Mapping[str, Any]) -> LinnaeusError | None:
    """Return the error of class `name` with these field values, or None when there is no such class.

    The counterpart of `type(error).__name__` and `error.fields()`, for telling a failure to other
    processes as JSON.
    """
    cls = globals().get(name)
    if not (isinstance(cls, type) and issubclass(cls, LinnaeusError)):
        return None
    try:
        return cls(**values)
    except TypeError:  # fields of another version of linnaeus
        return None


def _hint(text: str | None) -> str:
    return f" {text}" if text else ""


@dataclass(kw_only=True, eq=False)
class ConfigError(LinnaeusError, ValueError):
    """A configuration that can't be used."""

    field: str
    expected: str
    value: object = None
    nearest: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        where = f" in {self.source}" if self.source else ""
        got = "" if self.value is None else f" (got {self.value!r})"
        nearest = f" Did you mean {self.nearest}?" if self.nearest else ""
        return f"config {self.field}{where}: {self.expected}{got}.{nearest}"


@dataclass(kw_only=True, eq=False)
class IdentifierError(LinnaeusError, ValueError):
    """A text that can't name a checkpoint."""

    identifier: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.identifier!r} can't name a checkpoint: {self.reason}."
            " Give an absolute path or a bare file name, for example convnext_tiny_22k_1k_384.pth."
        )


@dataclass(kw_only=True, eq=False)
class CheckpointNotFoundError(LinnaeusError, FileNotFoundError):
    """A checkpoint that is in none of the places looked at.

    `places` holds, for each place, what was found wrong there, in the order of looking.
    """

    identifier: str
    places: Sequence[str]
    nearest: Sequence[str] = ()
    advice: str | None = None

    def __str__(self) -> str:
        nearest = f" Nearest: {', '.join(self.nearest)}." if self.nearest else ""
        places = "; ".join(self.places)
        return f"checkpoint {self.identifier!r} not found: {places}.{nearest}{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class CheckpointInvalidError(LinnaeusError, ValueError):
    """A file that is no usable checkpoint."""

    path: str
    problem: str
    advice: str | None = None

    def __str__(self) -> str:
        return f"{self.path} is not a usable checkpoint: {self.problem}.{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class CorruptCheckpointError(CheckpointInvalidError):
    """A damaged checkpoint; `record` and `tensor` name the damaged part where it is known."""

    record: str | None = None
    tensor: str | None = None

    def __str__(self) -> str:
        part = f" (record {self.record}" if self.record else ""
        part += f", tensor {self.tensor}" if self.record and self.tensor else ""
        part += ")" if part else ""
        return f"{self.path} is damaged: {self.problem}{part}.{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class IncompleteCheckpointError(CheckpointInvalidError):
    """A part of a directory of shards, as a node without a shared directory keeps it.

    `missing` names the files that other nodes have; what is here is whole.
    """

    missing: Sequence[str] = ()

    def __str__(self) -> str:
        more = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        names = f" ({', '.join(self.missing[:3])}{more})" if self.missing else ""
        return f"{self.path} is a part of a checkpoint: {self.problem}{names}.{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class PinMismatchError(CheckpointInvalidError):
    """A file whose content is another than its name is held to; both SHA-256 in hex."""

    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.problem}: sha256 {self.expected} is expected,"
            f" {self.found} found.{_hint(self.advice)}"
        )


@dataclass(kw_only=True, eq=False)
class UnsafeCheckpointError(CheckpointInvalidError):
    """A checkpoint that asks for code to be run; nothing of it was executed."""

    globals: Sequence[str] = ()

    def __str__(self) -> str:
        asked = f": {', '.join(self.globals)}" if self.globals else ""
        return (
            f"{self.path} is unsafe: {self.problem}{asked}."
            " Nothing was executed. If you trust where it comes from, load it where its classes are"
            f" installed and write its plain tensors with linnaeus.save.{_hint(self.advice)}"
        )


@dataclass(kw_only=True, eq=False)
class UnsupportedFormatError(CheckpointInvalidError):
    """A whole file of a kind or version that linnaeus does not read."""

    found: str
    supported: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.problem}: found {self.found}, read are {self.supported}.{_hint(self.advice)}"
        )


@dataclass(kw_only=True, eq=False)
class RemoteError(LinnaeusError, OSError):
    """A bucket did not do what was asked.

    `tail` is the end of what the transfer program said, with secrets redacted.
    """

    remote: str
    operation: str
    attempts: int = 1
    tail: str = ""
    advice: str | None = None

    def __str__(self) -> str:
        times = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        said = f": {self.tail}" if self.tail else ""
        return f"{self._what()}: {self.operation} in {self.remote} failed{times}{said}.{_hint(self.advice)}"

    def _what(self) -> str:
        return "bucket error"


@dataclass(kw_only=True, eq=False)
class RcloneMissingError(RemoteError):
    """There is no rclone program on this machine; `tail` lists where it was looked for."""

    def _what(self) -> str:
        return "rclone not found"


@dataclass(kw_only=True, eq=False)
class RemoteAuthError(RemoteError):
    """The bucket refused: wrong or missing credentials, no permission, or a cap is reached."""

    def _what(self) -> str:
        return "refused by the bucket"


@dataclass(kw_only=True, eq=False)
class RemoteConflictError(RemoteError):
    """Other content already stands under that name."""

    def _what(self) -> str:
        return "not replaced"


@dataclass(kw_only=True, eq=False)
class RemoteNotFoundError(RemoteError):
    """There is no such object, or no such bucket."""

    def _what(self) -> str:
        return "not in the bucket"


@dataclass(kw_only=True, eq=False)
class RemoteTimeoutError(RemoteError):
    """A deadline passed before the transfer was done."""

    def _what(self) -> str:
        return "bucket too slow"


@dataclass(kw_only=True, eq=False)
class SaveError(LinnaeusError, RuntimeError):
    """A checkpoint was not written; what was there before is untouched."""

    path: str
    problem: str
    advice: str | None = None

    def __str__(self) -> str:
        return f"could not write {self.path}: {self.problem}.{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class InsufficientSpaceError(SaveError):
    """There is no room for the file; sizes are in bytes and None where unknown."""

    needed_bytes: int | None = None
    free_bytes: int | None = None

    def __str__(self) -> str:
        sizes = ""
        if self.needed_bytes is not None and self.free_bytes is not None:
            sizes = f" ({self.needed_bytes:,} bytes needed, {self.free_bytes:,} free)"
        advice = self.advice or "Free some space there, or choose another directory."
        return f"no space for {self.path}: {self.problem}{sizes}. {advice}"


@dataclass(kw_only=True, eq=False)
class SaveTimeoutError(SaveError):
    """A save that does not end, as on a network filesystem that is gone; `stack` is where it stands."""

    seconds: float
    stack: str = ""

    def __str__(self) -> str:
        advice = self.advice or "Nothing older was touched. Is its filesystem still there?"
        where = f"\n{self.stack}" if self.stack else ""
        return f"could not write {self.path}: {self.problem} after {self.seconds} s. {advice}{where}"


@dataclass(kw_only=True, eq=False)
class TornSaveError(SaveError):
    """Tensors changed unannounced while they were being saved; what was written of them is thrown away."""


@dataclass(kw_only=True, eq=False)
class PeerFailedError(SaveError):
    """What all ranks do together was given up, since some failed or are missing.

    `path` says what was being done; `ranks` are those to look at, `details` has a line for each failure,
    `missing` are those of `ranks` that gave no word at all.
    """

    ranks: Sequence[int] = ()
    details: Sequence[str] = ()
    missing: Sequence[int] = ()

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.details)
        return f"{self.path}: given up on all ranks: {self.problem}.{_hint(self.advice)}{lines}"


@dataclass(kw_only=True, eq=False)
class LoadError(LinnaeusError, RuntimeError):
    """A state was not taken over; nothing was changed."""

    path: str
    problem: str
    advice: str | None = None

    def __str__(self) -> str:
        return f"could not load {self.path}: {self.problem}.{_hint(self.advice)}"


@dataclass(kw_only=True, eq=False)
class IncompatibleWeightsError(LoadError):
    """Pretrained weights that do not fit the model; `details` has a line for each mismatch."""

    details: Sequence[str] = ()

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.details)
        return f"{self.path} does not fit the model: {self.problem}.{_hint(self.advice)}{lines}"


@dataclass(kw_only=True, eq=False)
class StitchError(IncompatibleWeightsError):
    """Sources that do not make one model: a parameter claimed twice, or widths that do not meet."""

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.details)
        return f"{self.path} can't be stitched: {self.problem}.{_hint(self.advice)}{lines}"


@dataclass(kw_only=True, eq=False)
class ResumeMismatchError(LoadError):
    """A checkpoint that holds another set of parts than the run that would resume from it."""

    details: Sequence[str] = ()

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.details)
        return f"can't resume from {self.path}: {self.problem}.{_hint(self.advice)}{lines}"
