"""What a bucket can do, and which errors each act may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a bucket.

    Name without the prefix, size, and what digests the bucket keeps (hex by algorithm).
    """

    name: str
    size_bytes: int
    digests: Mapping[str, str] = field(default_factory=dict)
    modified: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a transfer has come; the rate is in bytes per second."""

    name: str
    done_bytes: int
    total_bytes: int
    rate: float


Progress = Callable[[Transfer], None]


class Remote(Protocol):
    """A flat folder of files in a bucket.

    Every method may raise, beside what it names itself:

        RcloneMissingError: The transfer program is not on this machine.
        RemoteAuthError: The bucket refuses: credentials, permission, cap.
        RemoteTimeoutError: A deadline passed.
        RemoteError: The bucket can't be reached or fails, also after the retries.
    """

    @property
    def place(self) -> str:
        """What to call this place in messages, for example "bucket models under modelZoo/"."""

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name.

        Raises:
            RemoteNotFoundError: There is no such bucket.
        """

    def stat(self, name: str, *, digests: bool = False) -> RemoteFile | None:
        """Return one file, or None when there is none of that name.

        Raises:
            RemoteNotFoundError: There is no such bucket.
        """

    def fetch(self, name: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy one file to `destination`, checked against the bucket's digest where it keeps one.

        Raises:
            RemoteNotFoundError: There is no such file.
            CorruptCheckpointError: What arrives differs from what the bucket says it holds.
            InsufficientSpaceError: The local disk is full.
            SaveError: The destination can't be written.
        """

    def send(self, source: Path, name: str, *, progress: Progress | None = None) -> None:
        """Copy one local file to `name`, replacing what is there.

        Raises:
            RemoteNotFoundError: There is no such bucket; none is made.
        """
