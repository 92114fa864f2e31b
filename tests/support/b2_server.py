"""A Backblaze B2 server on loopback, true enough for rclone's `b2` backend to work against it unmodified.

It speaks the native API, holds everything in memory, checks what B2 checks (keys, capabilities, checksums),
and fails on request. It needs nothing beyond the standard library.

    with B2Server(buckets=["linnaeus-checkpoints"]) as server:
        server.put("linnaeus-checkpoints", "modelZoo/x.pth", data)
        server.fault("download", "cut", times=1, after_bytes=1000)
        ...  # a process with server.rclone_env("B2") in its environment
        assert server.count("download") == 2
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import TracebackType

from .b2.account import ALL_CAPABILITIES, Account
from .b2.faults import Fault, Kind
from .b2.http_server import LOOPBACK, HttpServer
from .b2.journal import Record
from .b2.listing import newest_uploads
from .b2.operations import Document, file_document
from .b2.store import LARGE_FILE_SHA1, NO_SHA1, Store

__all__ = ["B2Server", "Kind", "Record"]

KEY_ID = "0010123456789ab0000000001"
KEY = "K001linnaeusTestKeyNotASecret00"


class B2Server:
    """The server, as tests hold it.

    Operations, for faults and counts: `authorize`, `list_buckets`, `create_bucket`, `delete_bucket`, `list`,
    `list_versions`, `head`, `download`, `get_upload_url`, `upload`, `start_large_file`,
    `get_upload_part_url`, `upload_part`, `list_parts`, `list_unfinished_large_files`, `finish_large_file`,
    `cancel_large_file`, `copy_file`, `hide_file`, `delete_file_version`, `get_file_info`,
    `get_download_authorization`.

    Args:
        buckets: Buckets that exist from the start.
        key_id: The one application key's id.
        key: The one application key.
        capabilities: What the key may do; without one, B2 answers 401 `unauthorized`.
        only_buckets: The buckets that the key is restricted to; None is no restriction.
        address: Where it listens.
    """

    def __init__(
        self,
        buckets: Sequence[str] = (),
        *,
        key_id: str = KEY_ID,
        key: str = KEY,
        capabilities: Sequence[str] = ALL_CAPABILITIES,
        only_buckets: Sequence[str] | None = None,
        address: str = LOOPBACK,
    ) -> None:
        self.key_id = key_id
        self.key = key
        self._store = Store()
        for bucket in buckets:
            self._store.create_bucket(bucket)
        self._account = Account(key_id, key, capabilities, only_buckets)
        self._http = HttpServer(self._store, self._account, address)

    def __enter__(self) -> B2Server:
        self._http.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.stop()
        if error is None and self._http.failures:
            raise RuntimeError("the B2 test server itself failed") from self._http.failures[0]

    @property
    def endpoint(self) -> str:
        """The URL to give as `ENDPOINT`; nothing listens there once the server has stopped."""
        return self._http.endpoint

    def env(self) -> dict[str, str]:
        """Return the credentials as a user sets them."""
        return {"B2_APPLICATION_KEY_ID": self.key_id, "B2_APPLICATION_KEY": self.key}

    def rclone_env(self, remote: str) -> dict[str, str]:
        """Return what defines `remote` for an rclone process."""
        settings = {"TYPE": "b2", "ACCOUNT": self.key_id, "KEY": self.key, "ENDPOINT": self.endpoint}
        return {f"RCLONE_CONFIG_{remote.upper()}_{name}": value for name, value in settings.items()}

    def put(self, bucket: str, name: str, data: bytes, *, sha1: bool = True, large: bool = False) -> str:
        """Store an object and return its file id.

        Args:
            bucket: An existing bucket.
            name: The object's name within it.
            data: Its bytes.
            sha1: Whether B2 knows its checksum.
            large: Whether it is as if uploaded in parts: its checksum is then known from `fileInfo` only.
        """
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        version = self._store.add(
            self._store.bucket(bucket),
            name,
            "upload",
            data=data,
            sha1=digest if sha1 and not large else NO_SHA1,
            info={LARGE_FILE_SHA1: digest} if sha1 and large else {},
        )
        return version.file_id

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return what is visible in a bucket, by name."""
        with self._store.lock:
            return {version.name: version.data for version in newest_uploads(self._store.bucket(bucket))}

    def versions(self, bucket: str, name: str) -> list[Document]:
        """Return B2's descriptions of every version of a name, oldest first."""
        with self._store.lock:
            return [file_document(v) for v in self._store.bucket(bucket).versions.get(name, [])]

    def buckets(self) -> list[str]:
        """Return the names of the buckets there are."""
        return [bucket.name for bucket in self._store.buckets()]

    def expire_tokens(self) -> None:
        """Make every token given out so far invalid."""
        self._account.expire_tokens()

    def fault(
        self,
        operation: str,
        kind: Kind,
        *,
        times: int | None = None,
        after_bytes: int | None = None,
        name: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Make requests go wrong from now on; several faults may strike one request.

        Kinds:
            401, 403, 429, 500, 503: that status, with B2's code for it (401 is `expired_auth_token`).
            `download_cap_exceeded`, `storage_cap_exceeded`, `transaction_cap_exceeded`: 403 with that code.
            `cut`: the connection is reset in the body. `hangup`: it is closed in the body, without a reset.
            `expire`: a cut, at which every token given out so far becomes invalid.
            `stall`: nothing more is passed, the connection stays open until the server stops.
            `trickle`: from there on five bytes a second.
            `damage`: one bit of the body is flipped; the announced checksum stays that of the true bytes.
            `short`: the body is cut short, and its `Content-Length` says so.
            `no_checksum`: the object seems to have no SHA-1; of an upload, it is kept without one.
            `wrong_checksum`: it seems to have another SHA-1 than its own; an upload is kept with that.
            `refuse`: the connection is reset without an answer. `lost`: it is done, and then as `refuse`.

        `cut`, `hangup`, `expire`, `stall`, `trickle` and `damage` strike the body: of the answer, or of the
        request where it is an upload.

        Args:
            operation: One of the operations above, or "*".
            kind: What goes wrong.
            times: How many requests meet it; None is all.
            after_bytes: Where in the body it strikes; None is its middle.
            name: The object's name, or a listing's prefix, that it is limited to.
            retry_after: Seconds that a 429 or 503 asks the client to wait.
        """
        self._http.faults.add(Fault(operation, kind, times, after_bytes, name, retry_after))

    def fault_at_random(
        self, share: float, kinds: Sequence[Kind], operations: Sequence[str], *, seed: int
    ) -> None:
        """Let a share of the requests of some operations meet a fault of one of these kinds, at any place."""
        self._http.faults.at_random(share, kinds, operations, seed)

    def all_versions(self, bucket: str) -> list[tuple[str, str]]:
        """Return the name and the SHA-1 of every version that there is, hidden ones too."""
        with self._store.lock:
            versions = [v for named in self._store.bucket(bucket).versions.values() for v in named]
        return [(v.name, v.sha1) for v in versions if v.action == "upload"]

    def stored(self, bucket: str) -> list[tuple[str, str]]:
        """Return the name and the SHA-1 of all that was ever visible, oldest first, what is deleted too."""
        return [(name, sha1) for place, name, sha1 in self._store.history if place == bucket]

    def set_clock(self, *, skew_seconds: float) -> None:
        """Let the server's clock be so far before that of this machine, or behind it."""
        self._store.clock_skew_seconds = skew_seconds

    def drop_bucket(self, bucket: str) -> None:
        """Delete a bucket with all that it holds."""
        self._store.drop_bucket(bucket)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Let each connection carry at most so many bytes of bodies a second; None is no limit."""
        self._http.bytes_per_second = bytes_per_second

    def clear_faults(self) -> None:
        """End every fault that has not struck yet."""
        self._http.faults.clear()

    @property
    def requests(self) -> list[Record]:
        """What was asked so far, oldest first."""
        return self._http.journal.records()

    def count(self, operation: str) -> int:
        """Return how many requests of an operation came."""
        return sum(record.operation == operation for record in self.requests)

    def bytes_served(self, name: str) -> int:
        """Return how many bytes of an object were sent, over all downloads."""
        return sum(r.bytes_sent for r in self.requests if r.operation == "download" and r.name == name)

    def reset_counts(self) -> None:
        """Forget the requests so far."""
        self._http.journal.clear()
