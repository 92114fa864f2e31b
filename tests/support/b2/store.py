"""What the server holds: buckets, versions of files, and large files not yet finished. All in memory.

Every method takes the one lock, so that the many threads of the server see whole states only.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field

from .errors import B2Error

LARGE_FILE_SHA1 = "large_file_sha1"
NO_SHA1 = "none"


@dataclass(frozen=True, slots=True)
class Part:
    """One uploaded part of a large file; `sha1` is that of its bytes."""

    number: int
    data: bytes
    sha1: str
    timestamp: int


@dataclass(slots=True)
class Version:
    """One version of a file. `action` is "upload", "hide", or "start" while a large file is unfinished."""

    file_id: str
    bucket_id: str
    name: str
    action: str
    timestamp: int
    data: bytes = b""
    sha1: str = NO_SHA1
    content_type: str = "application/octet-stream"
    info: dict[str, str] = field(default_factory=dict)
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(slots=True)
class Bucket:
    """A bucket; the versions of a name are oldest first."""

    bucket_id: str
    name: str
    versions: dict[str, list[Version]] = field(default_factory=dict)


class Store:
    """Every bucket of the one account."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._buckets: dict[str, Bucket] = {}
        self._by_id: dict[str, Version] = {}
        self.clock_skew_seconds = 0.0
        self.history: list[tuple[str, str, str]] = []
        self._last_timestamp = 0
        self._next_number = 0

    def buckets(self) -> list[Bucket]:
        """Return the buckets in order of their names."""
        with self.lock:
            return [self._buckets[name] for name in sorted(self._buckets)]

    def create_bucket(self, name: str) -> Bucket:
        """Make an empty bucket; a second one of the same name is refused."""
        with self.lock:
            if name in self._buckets:
                raise B2Error("duplicate_bucket_name", "Bucket name is already in use.")
            self._buckets[name] = Bucket(self._unique("b"), name)
            return self._buckets[name]

    def delete_bucket(self, bucket_id: str) -> Bucket:
        """Remove an empty bucket."""
        with self.lock:
            bucket = self.bucket_by_id(bucket_id)
            if any(bucket.versions.values()):
                raise B2Error("bad_request", "Cannot delete non-empty bucket")
            return self._buckets.pop(bucket.name)

    def drop_bucket(self, name: str) -> None:
        """Remove a bucket with all that it holds."""
        with self.lock:
            del self._buckets[name]

    def bucket(self, name: str) -> Bucket:
        """Return the bucket of this name; downloads by name answer 404 where there is none."""
        with self.lock:
            if name not in self._buckets:
                raise B2Error("not_found", f"Bucket does not exist: {name}")
            return self._buckets[name]

    def bucket_by_id(self, bucket_id: str) -> Bucket:
        """Return the bucket of this id."""
        with self.lock:
            for bucket in self._buckets.values():
                if bucket.bucket_id == bucket_id:
                    return bucket
        raise B2Error("bad_bucket_id", f"Bucket does not exist: {bucket_id}")

    def add(self, bucket: Bucket, name: str, action: str, **attributes: object) -> Version:
        """Append a version of `name`; `attributes` are the other fields of `Version`."""
        with self.lock:
            version = Version(self._unique("f"), bucket.bucket_id, name, action, self._timestamp())
            for attribute, value in attributes.items():
                setattr(version, attribute, value)
            bucket.versions.setdefault(name, []).append(version)
            self._by_id[version.file_id] = version
            self._note(version)
            return version

    def _note(self, version: Version) -> None:
        if version.action == "upload":
            bucket = self.bucket_by_id(version.bucket_id).name
            sha1 = hashlib.sha1(version.data, usedforsecurity=False).hexdigest()
            self.history.append((bucket, version.name, sha1))

    def version(self, file_id: str) -> Version:
        """Return the version of this id."""
        with self.lock:
            if file_id not in self._by_id:
                raise B2Error("not_found", f"File with such id does not exist: {file_id}")
            return self._by_id[file_id]

    def visible(self, bucket: Bucket, name: str) -> Version | None:
        """Return the version that a download by name gives, or None where the name is absent or hidden."""
        with self.lock:
            finished = [v for v in bucket.versions.get(name, []) if v.action != "start"]
            return finished[-1] if finished and finished[-1].action == "upload" else None

    def hide(self, bucket: Bucket, name: str) -> Version:
        """Append a hide marker, so that the name is no longer listed."""
        with self.lock:
            if not bucket.versions.get(name):
                raise B2Error("no_such_file", f"File not present: {name}")
            if self.visible(bucket, name) is None:
                raise B2Error("already_hidden", f"File already hidden: {name}")
            return self.add(bucket, name, "hide")

    def delete(self, file_id: str, name: str) -> Version:
        """Remove one version for good; the one before it becomes visible again."""
        with self.lock:
            version = self._by_id.get(file_id)
            if version is None or version.name != name:
                raise B2Error("file_not_present", f"File not present: {name} {file_id}")
            self.bucket_by_id(version.bucket_id).versions[name].remove(version)
            return self._by_id.pop(file_id)

    def unfinished(self, file_id: str) -> Version:
        """Return a large file that still takes parts."""
        with self.lock:
            version = self._by_id.get(file_id)
            if version is None or version.action != "start":
                raise B2Error("bad_request", f"No active upload for: {file_id}")
            return version

    def add_part(self, file_id: str, number: int, data: bytes) -> Part:
        """Keep one part of a large file; the same number replaces."""
        with self.lock:
            version = self.unfinished(file_id)
            sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            part = Part(number, data, sha1, self._timestamp())
            version.parts[number] = part
            return part

    def finish(self, file_id: str, part_sha1s: list[str]) -> Version:
        """Join the parts 1..n into a file, when their checksums are the ones the client names."""
        with self.lock:
            version = self.unfinished(file_id)
            if sorted(version.parts) != list(range(1, len(part_sha1s) + 1)):
                raise B2Error("bad_request", f"Part number(s) missing or too many: {sorted(version.parts)}")
            parts = [version.parts[number] for number in sorted(version.parts)]
            if [part.sha1 for part in parts] != part_sha1s:
                raise B2Error("bad_request", "Sha1 of a part does not match the one uploaded")
            version.data = b"".join(part.data for part in parts)
            version.action = "upload"
            version.parts = {}
            self._note(version)
            return version

    def _unique(self, kind: str) -> str:
        self._next_number += 1
        return f"4_z{kind}{self._next_number:012d}"

    def _timestamp(self) -> int:
        """Return milliseconds since 1970, never the same twice: rclone tells versions apart by them."""
        now = int((time.time() + self.clock_skew_seconds) * 1000)
        self._last_timestamp = max(now, self._last_timestamp + 1)
        return self._last_timestamp
