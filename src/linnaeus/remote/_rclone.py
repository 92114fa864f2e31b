"""A bucket through rclone: one command of its remote control for each act.

`rclone rc --loopback operations/…` works on one object and exits with an honest status, where `copyto` and
`cat` exit 0 and write nothing when the object is missing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linnaeus.errors import (
    CorruptCheckpointError,
    LinnaeusError,
    RcloneMissingError,
    RemoteError,
    RemoteNotFoundError,
    RemoteTimeoutError,
)
from linnaeus.remote._b2_bucket import B2Bucket, mark_header
from linnaeus.remote._child import HASHING_BYTES_PER_SECOND, DeadlineError, run_child
from linnaeus.remote._daemon import Daemon, DaemonError
from linnaeus.remote._download import Download
from linnaeus.remote._failures import Failures
from linnaeus.remote._journal import forget
from linnaeus.remote._program import child_environment, current_environment, find_program
from linnaeus.remote._protocol import Downloaded, Progress, RemoteFile, Session, Transfer
from linnaeus.remote._retry import Retry
from linnaeus.remote._session import LISTING, RcloneSession, remote_file

# What buckets keep: B2 SHA-1, S3 MD5, some SHA-256.
_DIGESTS = ("sha1", "md5", "sha256")
# A directory keeps none: it reads the file for each that is asked for.
_DIGESTS_OF_DIRECTORIES = ("sha1",)
# Directories of this machine. Without copy_links rclone would see the link best.pth as a file of five bytes.
LOCAL_ROOT = ":local,copy_links:"
# What a session calls the bucket: its own name may hold characters that a URL gives another meaning.
_ALIAS = "linnaeusplace"
_VERSIONED_ALIAS = "linnaeusversions"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: to connect, without progress, and for one act with all its retries (None: no limit)."""

    connect: float
    idle: float
    total: float | None


@dataclass(frozen=True, slots=True)
class RcloneRemote:
    """A folder of a bucket.

    Attributes:
        place: What to call it in messages.
        bucket_root: rclone's name for the bucket alone, for example "linnaeus:models".
        prefix: The folder in it, "modelZoo/", or "" for the bucket itself.
        settings: Environment for rclone: the remote's type and credentials.
        secrets: Texts that must appear in no message.
        uses_config_file: Whether `bucket_root` names a remote of the user's rclone.conf.
        num_streams: How many spans of a large file are fetched at the same time.
        keeps_versions: Whether the bucket is one of Backblaze B2 by the settings, and keeps what is replaced.
        in_background: Whether all other work on this machine goes first.
        megabytes_per_second: How fast to transfer; 0 for no limit.
        b2: The bucket of Backblaze B2 that this is, where it is one by the settings.
    """

    place: str
    bucket_root: str
    prefix: str
    deadlines: Deadlines
    retry: Retry
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    uses_config_file: bool = False
    num_streams: int = 4
    keeps_versions: bool = False
    in_background: bool = False
    megabytes_per_second: float = 0.0
    b2: B2Bucket | None = None

    @property
    def root(self) -> str:
        """What rclone calls this place."""
        return f"{self.bucket_root}/{self.prefix}" if self.prefix else self.bucket_root

    @property
    def _failures(self) -> Failures:
        return Failures(self.place, self.secrets)

    @property
    def _digests(self) -> list[str]:
        is_directory = self.bucket_root.startswith(LOCAL_ROOT)
        return list(_DIGESTS_OF_DIRECTORIES if is_directory else _DIGESTS)

    def files(self) -> list[RemoteFile]:
        """Return all files directly in this place, by name; see `Remote.files`."""
        with self.session() as session:
            return session.files()

    def stat(self, name: str, *, digests: bool = False) -> RemoteFile | None:
        """Return one file, or None; see `Remote.stat`."""
        options = LISTING | ({"showHash": True, "hashTypes": self._digests} if digests else {})
        parameters = {"fs": self.root, "remote": name, "opt": options}
        item = self._call(f"looking up {name}", "operations/stat", parameters)["item"]
        return None if item is None else replace(remote_file(item), name=name)  # with its folder

    def fetch(self, name: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy one file here; see `Remote.fetch`."""
        there, here = (self.root, name), (f"{LOCAL_ROOT}{destination.parent}", destination.name)
        self._copy(f"download of {name}", there, here, progress, path=str(destination))

    def download(
        self,
        name: str,
        directory: Path,
        *,
        algorithms: Sequence[str] = (),
        progress: Progress | None = None,
        session: Session | None = None,
    ) -> Downloaded:
        """Bring one large file here; see `Remote.download`."""
        with contextlib.nullcontext(session) if session is not None else self.session() as session:
            known = session.stat(name)
            if known is None:
                missing = "there is no such file"
                raise self._failures.error(RemoteNotFoundError, f"download of {name}", 1, missing)
            # Damage on the way is told from damage in the bucket by bringing it again.
            arrived = self._bring(session, known, directory, algorithms, progress)
            if _wrong(arrived):
                forget(directory)
                arrived = self._bring(session, known, directory, algorithms, progress)
        if _wrong(arrived):
            forget(directory)
            raise CorruptCheckpointError(
                path=f"{name} as it arrived from {self.place}", problem=_wrong(arrived)
            )
        return arrived

    def _bring(
        self,
        session: Session,
        known: RemoteFile,
        directory: Path,
        algorithms: Sequence[str],
        progress: Progress | None,
    ) -> Downloaded:
        download = Download(
            session,
            known,
            directory,
            num_streams=self.num_streams,
            retry=self.retry,
            total_seconds=self.deadlines.total,
            progress=progress,
        )
        digests = download.run(list(dict.fromkeys([*known.digests, *algorithms])))
        return Downloaded(download.path, known, digests, download.resumed_bytes)

    def digest_of(self, path: Path, algorithm: str) -> str:
        """Return the hex digest of a local file; see `Remote.digest_of`."""
        options = dict(LISTING) | {"showHash": True, "hashTypes": [algorithm]}
        parameters = {"fs": f"{LOCAL_ROOT}{path.parent}", "remote": path.name, "opt": options}
        size_bytes = path.stat().st_size
        operation = f"{algorithm} of {path.name}"
        item = self._call(operation, "operations/stat", parameters, hashed_bytes=size_bytes)["item"]
        found = {} if item is None else remote_file(item).digests
        if algorithm not in found:
            raise self._failures.error(RemoteNotFoundError, operation, 1, f"{path} is gone")
        return found[algorithm]

    def send(self, source: Path, name: str, *, progress: Progress | None = None, mark: str = "") -> None:
        """Copy one file there; see `Remote.send`."""
        self._require_bucket()
        here, there = (f"{LOCAL_ROOT}{source.parent}", source.name), (self.root, name)
        size_bytes = source.stat().st_size
        self._copy(
            f"upload of {name}",
            here,
            there,
            progress,
            path=f"{name} in {self.place}",
            hashed_bytes=size_bytes,
            headers=[mark_header(mark)] if mark and self.b2 else [],
        )

    def _require_bucket(self) -> None:
        """Look first, because rclone would make a bucket whose name is mistyped."""
        if self.b2 is not None:
            self.b2.require()
            return
        parameters = {"fs": self.bucket_root, "remote": "", "opt": LISTING}
        self._call("looking up the bucket", "operations/list", parameters)

    def drop_unfinished(self, mark: str) -> list[str]:
        """Drop uploads that were not ended; see `Remote.drop_unfinished`."""
        return self.b2.cancel(mark) if self.b2 else []

    @contextlib.contextmanager
    def session(self) -> Iterator[RcloneSession]:
        """Open this place for ranges and many small acts; see `Remote.session`."""
        environment = current_environment()
        program = find_program(environment)
        child = child_environment(environment, {**self.settings, **self._alias()})
        with contextlib.ExitStack() as stack:
            try:
                daemon = stack.enter_context(
                    Daemon(program, self._options(), child, in_background=self.in_background)
                )
            except DaemonError as error:
                raise self._failures.meaning(1, [str(error)], "starting rclone", 1) from error
            except OSError as error:
                reason = f"{program} can't be started ({error.strerror})"
                raise self._failures.error(RcloneMissingError, "starting rclone", 1, reason) from error
            yield RcloneSession(
                daemon=daemon,
                root=f"{_ALIAS}:",
                b2=None if self.b2 is None else replace(self.b2, retry=Retry(attempts=1)),
                versioned_root=f"{_VERSIONED_ALIAS}:" if self.keeps_versions else "",
                prefix=self.prefix,
                retry=self.retry,
                idle_seconds=self.deadlines.idle,
                digests=() if self.bucket_root.startswith(LOCAL_ROOT) else _DIGESTS,
                failures=self._failures,
            )

    def _alias(self) -> dict[str, str]:
        prefix = f"RCLONE_CONFIG_{_ALIAS.upper()}_"
        alias = {f"{prefix}TYPE": "alias", f"{prefix}REMOTE": self.bucket_root}
        if not self.keeps_versions:
            return alias
        prefix = f"RCLONE_CONFIG_{_VERSIONED_ALIAS.upper()}_"
        remote, colon, bucket = self.bucket_root.partition(":")
        versioned = f"{remote},versions=true,hard_delete=true{colon}{bucket}"
        return alias | {f"{prefix}TYPE": "alias", f"{prefix}REMOTE": versioned}

    def _copy(
        self,
        operation: str,
        source: tuple[str, str],
        target: tuple[str, str],
        progress: Progress | None,
        *,
        path: str,
        hashed_bytes: int = 0,
        headers: Sequence[str] = (),
    ) -> None:
        parameters = {
            "srcFs": source[0],
            "srcRemote": source[1],
            "dstFs": target[0],
            "dstRemote": target[1],
            "_group": "global_stats",
            # Equal size and time prove nothing: copy the bytes.
            "_config": {"IgnoreTimes": True},
        }
        observe = _observer(source[1], progress)
        self._call(
            operation,
            "operations/copyfile",
            parameters,
            observe,
            path=path,
            hashed_bytes=hashed_bytes,
            options=[f"--header-upload={header}" for header in headers],
        )

    def _call(
        self,
        operation: str,
        command: str,
        parameters: Mapping[str, Any],
        observe: Any = lambda stats: None,
        *,
        path: str | None = None,
        hashed_bytes: int = 0,
        options: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Run one remote-control command, with retries, and return its answer."""
        environment = current_environment()
        arguments = [*self._arguments(find_program(environment), command, parameters), *options]
        child = child_environment(environment, self.settings)
        started = time.monotonic()

        def attempt(number: int) -> dict[str, Any]:
            total = self.deadlines.total
            left = None if total is None else max(0.0, total - (time.monotonic() - started))
            try:
                outcome = run_child(
                    arguments,
                    child,
                    idle_seconds=2 * self.deadlines.idle + hashed_bytes / HASHING_BYTES_PER_SECOND,
                    total_seconds=left,
                    on_stats=observe,
                    in_background=self.in_background,
                )
            except DeadlineError as error:
                raise self._failures.error(RemoteTimeoutError, operation, number, str(error)) from error
            except OSError as error:
                reason = f"{arguments[0]} can't be started ({error.strerror})"
                raise self._failures.error(RcloneMissingError, operation, number, reason) from error
            if outcome.status == 0:
                answer: dict[str, Any] = json.loads(outcome.output or "{}")
                return answer
            raise self._failures.meaning(outcome.status, outcome.messages, operation, number, path)

        return self.retry.run(attempt, self._worth_retrying(started))

    def _worth_retrying(self, started: float) -> Any:
        def judge(error: LinnaeusError) -> bool:
            total = self.deadlines.total
            if total is not None and time.monotonic() - started >= total:
                return False
            # Damage on the way is told from damage in the bucket by trying again.
            return type(error) in (RemoteError, RemoteTimeoutError, CorruptCheckpointError)

        return judge

    def _arguments(self, program: str, command: str, parameters: Mapping[str, Any]) -> list[str]:
        arguments = [program, "rc", "--loopback", command, "--json", json.dumps(parameters)]
        return [*arguments, "--use-json-log", "--stats=500ms", "--stats-log-level=NOTICE", *self._options()]

    def _options(self) -> list[str]:
        deadlines = self.deadlines
        options = [f"--contimeout={deadlines.connect:g}s", f"--timeout={deadlines.idle:g}s"]
        # Trying again is this room's business; rclone's own tries multiply and wait unseen.
        options += ["--ask-password=false", "--low-level-retries=1"]
        if self.megabytes_per_second:
            options.append(f"--bwlimit={self.megabytes_per_second * 1e6:.0f}B")
        return options if self.uses_config_file else [*options, "--config="]


def _observer(name: str, progress: Progress | None) -> Any:
    def observe(stats: Mapping[str, Any]) -> None:
        if progress is None:
            return
        done, total = int(stats.get("bytes", 0)), int(stats.get("totalBytes", 0))
        progress(Transfer(name, done, total, float(stats.get("speed", 0.0))))

    return observe


def _wrong(arrived: Downloaded) -> str:
    """Return what differs from what the bucket says it holds; empty when nothing does."""
    for algorithm, digest in arrived.known.digests.items():
        if arrived.digests[algorithm] != digest:
            found = arrived.digests[algorithm]
            return f"corrupted on transfer: its {algorithm} is {found}, that of the bucket {digest}"
    return ""
