"""What a bucket can do, and which errors each act may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a bucket.

    Name without the prefix, size, what digests the bucket keeps (hex by algorithm), and the bucket's own
    id of this version, where it has such.
    """

    name: str
    size_bytes: int
    digests: Mapping[str, str] = field(default_factory=dict)
    modified: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a transfer has come; the rate is in bytes per second."""

    name: str
    done_bytes: int
    total_bytes: int
    rate: float


Progress = Callable[[Transfer], None]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was brought here: where it lies, its digests, and how much of it was here before."""

    path: Path
    known: RemoteFile
    digests: Mapping[str, str]
    resumed_bytes: int


class Session(Protocol):
    """A folder of a bucket, signed in to once; for any number of threads, within its `with` block.

    Every method may raise what those of `Remote` may.
    """

    @property
    def place(self) -> str:
        """What to call this place in messages."""

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name, without digests; none where nothing was ever put.

        Raises:
            RemoteNotFoundError: There is no such bucket.
        """

    def files_and_folders(self) -> tuple[list[RemoteFile], list[str]]:
        """Return what `files` does, and the names of the folders directly in this place, by one request.

        Raises:
            RemoteNotFoundError: There is no such bucket or folder.
        """

    def folder(self, name: str) -> list[RemoteFile]:
        """Return all files directly in a folder of this place, as "folder/file"; none where there is none.

        Such names are taken wherever a file's name is.
        """

    def stat(self, name: str) -> RemoteFile | None:
        """Return one file with the digests that the bucket keeps, or None when there is none of that name."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on.

        Raises:
            RemoteNotFoundError: There is no such file.
        """

    def stream(
        self, name: str, start: int, stop: int, take: Callable[[memoryview, int], None], *, attempts: int = 1
    ) -> None:
        """Hand the bytes from `start` to before `stop` to `take(piece, offset)` as they come. No retries.

        Raises:
            RemoteNotFoundError: There is no such file.
        """

    def versions(self, name: str) -> list[RemoteFile]:
        """Return the hidden older versions of a file, each under a name that `read` and `delete` take.

        Never the one that is to be seen, nor uploads that were not ended. Where a bucket keeps none, or
        shows none, there are none.
        """

    def delete(self, name: str) -> None:
        """Delete one file, or one version, for good; one that is already gone is fine."""

    def stop(self) -> None:
        """End it at once, from any thread: whatever is under way fails."""


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
        """Return all files directly in this place, by name, without digests; none where nothing was ever put.

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

    def digest_of(self, path: Path, algorithm: str) -> str:
        """Return the hex digest of a local file, computed as calmly as files are transferred."""

    def send(self, source: Path, name: str, *, progress: Progress | None = None, mark: str = "") -> None:
        """Copy one local file to `name`, replacing what is there.

        Args:
            source: The file.
            name: What it is called here.
            progress: What this raises ends it.
            mark: Whose upload it is, for `drop_unfinished`.

        Raises:
            RemoteNotFoundError: There is no such bucket; none is made.
        """

    def drop_unfinished(self, mark: str) -> list[str]:
        """Drop the uploads to this place with this mark that were begun and never ended; return their names.

        Those of anybody else stay. Where a bucket keeps none, or shows none, there are none.
        """

    def session(self) -> AbstractContextManager[Session]:
        """Open this place for ranges and for many small acts, signed in once."""

    def download(
        self,
        name: str,
        directory: Path,
        *,
        algorithms: Sequence[str] = (),
        progress: Progress | None = None,
        session: Session | None = None,
    ) -> Downloaded:
        """Bring one large file into `directory` over several streams, going on with what is there of it.

        Args:
            name: The file's name here.
            directory: For this file alone; keep it when this fails, and give it again.
            algorithms: Digests to compute beside those that the bucket keeps, which are compared.
            progress: Called twice a second.
            session: Of this place, for who brings several; by default one is opened. When this fails it has
                ended.

        Raises:
            RemoteNotFoundError: There is no such file.
            CorruptCheckpointError: What arrived differs from what the bucket says it holds, twice.
            OSError: The local disk did not take it.
        """
