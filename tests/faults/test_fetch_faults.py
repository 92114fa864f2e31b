"""Everything that can go wrong while a checkpoint is fetched: each gets its own error, and leaves nothing."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from random import Random

import pytest

from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    LinnaeusError,
    RemoteAuthError,
    RemoteError,
    RemoteTimeoutError,
    UnsafeCheckpointError,
    UnsupportedFormatError,
)
from linnaeus.resolving import resolve_in
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket, directory_bucket
from support.directories import tree
from support.mounts import with_mounts
from support.processes import resolving

OBJECT = f"{PREFIX}x.pth"


def failed(server: B2Server, cache: Path, name: str = "x.pth", **settings: object) -> LinnaeusError:
    """Return the error that resolving ends with; the cache then holds no part of the file."""
    with pytest.raises(LinnaeusError) as caught:
        resolve_in(name, str(cache), b2_bucket(server, **settings))
    assert [path for path in tree(cache) if not path.endswith((".lock", ".failure"))] == []
    return caught.value


# Refused: no retry.


def test_a_wrong_key_is_refused_at_once(b2, cache, monkeypatch):
    """One request, one attempt, however many retries are allowed."""
    monkeypatch.setenv("B2_APPLICATION_KEY", "K00wrongwrongwrong")
    error = failed(b2, cache, RETRIES=4)
    assert type(error) is RemoteAuthError
    assert error.attempts == 1
    assert [record.operation for record in b2.requests] == ["authorize"]
    assert "credentials" in str(error)


@pytest.mark.parametrize("name", ["B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"])
def test_without_a_key_nothing_is_tried(b2, cache, monkeypatch, name):
    """The missing variable is named, no request is made, and no cache."""
    monkeypatch.delenv(name)
    with pytest.raises(RemoteAuthError, match=f"{name} not set"):
        resolve_in("x.pth", str(cache), b2_bucket(b2, RETRIES=4))
    assert b2.requests == []
    assert not cache.exists()


def test_a_forbidden_bucket_is_refused_at_once(cache, monkeypatch):
    """A key for another bucket is a refusal, not a missing bucket."""
    with B2Server(buckets=[BUCKET, "other"], only_buckets=["other"]) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        error = failed(server, cache, RETRIES=4)
        assert type(error) is RemoteAuthError
        assert error.attempts == 1
        assert server.count("authorize") == 1


def test_a_key_that_may_not_read_is_refused_at_once(checkpoint_bytes, cache, monkeypatch):
    """A capability that is missing is a refusal."""
    with B2Server(buckets=[BUCKET], capabilities=["listBuckets", "listFiles"]) as server:
        server.put(BUCKET, OBJECT, checkpoint_bytes)
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        error = failed(server, cache, RETRIES=4)
        assert (type(error), error.attempts) == (RemoteAuthError, 1)


@pytest.mark.parametrize("operation", ["head", "download"])
@pytest.mark.parametrize("cap", ["download_cap_exceeded", "transaction_cap_exceeded", 403])
def test_a_cap_is_a_refusal(b2, cache, operation, cap):
    """A reached cap does not end by trying again, so it is not; one download is asked for at most."""
    b2.fault(operation, cap)
    error = failed(b2, cache, RETRIES=4)
    assert (type(error), error.attempts) == (RemoteAuthError, 1)
    assert b2.count("download") == (operation == "download")
    assert b2.count("authorize") <= 2


# Unreachable: tried again, then told with the number of attempts.


def test_a_server_that_is_gone(b2, cache):
    """Nobody listening: each attempt is counted."""
    bucket = b2_bucket(b2, RETRIES=2, ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="connection refused") as caught:
        resolve_in("x.pth", str(cache), bucket)
    assert (type(caught.value), caught.value.attempts) == (RemoteError, 2)
    assert "after 2 attempts" in str(caught.value)


@pytest.mark.parametrize("operation", ["authorize", "head", "download"])
@pytest.mark.parametrize("fault", [503, 500, "refuse"])
def test_a_server_that_fails_beyond_the_retries(b2, cache, operation, fault):
    """Wherever it fails, and whether it answers or not, it is one error that counts its attempts."""
    b2.fault(operation, fault)
    error = failed(b2, cache, RETRIES=2)
    assert (type(error), error.attempts) == (RemoteError, 2)
    assert b2.count(operation) >= 2


@pytest.mark.parametrize("fault", ["cut", "hangup"])
@pytest.mark.parametrize("after_bytes", [0, 1000, None])
def test_a_connection_that_is_cut(b2, cache, fault, after_bytes):
    """A body that breaks off is no file, wherever it breaks."""
    b2.fault("download", fault, after_bytes=after_bytes)
    error = failed(b2, cache, RETRIES=2)
    assert (type(error), error.attempts) == (RemoteError, 2)
    assert b2.count("download") >= 2


@pytest.mark.parametrize("fault", [503, 500, 429, 401, "cut", "hangup", "damage", "short"])
def test_what_passes_is_survived(b2, cache, checkpoint_bytes, fault):
    """One failure of a passing kind costs a retry, and the file is whole."""
    b2.fault("download", fault, times=1)
    resolve_in("x.pth", str(cache), b2_bucket(b2, RETRIES=2))
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert b2.count("download") == 2


@pytest.mark.parametrize("operation", ["authorize", "head", "download"])
def test_a_server_that_stalls(b2, cache, operation):
    """A connection that stays open and silent is given up after the idle deadline."""
    b2.fault(operation, "stall")
    error = failed(b2, cache, RETRIES=1, IDLE_TIMEOUT_SECONDS=0.6)
    assert (type(error), error.attempts) == (RemoteTimeoutError, 1)
    assert "TIMEOUT_SECONDS" in str(error)


def test_a_server_that_trickles(b2, cache):
    """A body that comes in drops is given up after the total deadline."""
    b2.fault("download", "trickle")
    error = failed(b2, cache, RETRIES=3, TOTAL_TIMEOUT_SECONDS=1.2)
    assert (type(error), error.attempts) == (RemoteTimeoutError, 1)
    assert "not done within" in str(error)


# What arrives is no whole, safe checkpoint.


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("fault", ["damage", "short"])
def test_a_body_that_is_damaged_or_cut_short(b2, cache, checkpoint_bytes, fault, checksum):
    """It never reaches the cache, whether the server keeps a checksum or not."""
    b2.put(BUCKET, OBJECT, checkpoint_bytes, sha1=checksum)
    b2.fault("download", fault)
    error = failed(b2, cache)
    assert type(error) is CorruptCheckpointError
    assert BUCKET in str(error)


def last_value() -> bytes:
    """Return the last value of the checkpoint's tensor as it is stored."""
    return struct.pack("<f", 74_999.0)


@pytest.mark.parametrize("part", ["signature", "pickle", "tensor", "last tensor byte", "directory"])
def test_a_single_flipped_bit_is_found_without_a_checksum(b2, cache, checkpoint_bytes, part):
    """In the header, the pickle, a tensor or the directory of records: a damaged file never gets in."""
    directory = checkpoint_bytes.index(b"PK\x01\x02")
    positions = {
        "signature": 0,
        "pickle": checkpoint_bytes.index(b"weight"),
        "tensor": len(checkpoint_bytes) // 2,
        "last tensor byte": checkpoint_bytes.index(last_value()) + 3,
        "directory": directory + 16,  # where the first record's CRC-32 stands
    }
    b2.put(BUCKET, OBJECT, checkpoint_bytes, sha1=False)
    b2.fault("download", "damage", after_bytes=positions[part])
    assert isinstance(failed(b2, cache), CheckpointInvalidError)


@pytest.mark.parametrize("kept", [1, 100, 10_000, -1])
def test_a_body_cut_short_anywhere_is_found_without_a_checksum(b2, cache, checkpoint_bytes, kept):
    """Even when the server itself believes that it is whole."""
    b2.put(BUCKET, OBJECT, checkpoint_bytes[:kept], sha1=False)
    assert isinstance(failed(b2, cache), CheckpointInvalidError)


def a_zip(**members: bytes) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title></html>", UnsupportedFormatError),
        (b"", CorruptCheckpointError),
        (bytes(100_000), CorruptCheckpointError),
        (Random(5).randbytes(100_000), UnsupportedFormatError),
        (a_zip(readme=b"hello"), CheckpointInvalidError),
        (b'{"error": "no"}', UnsupportedFormatError),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", UnsupportedFormatError),
        (b"\x1f\x8b\x08" + bytes(600), UnsupportedFormatError),
    ],
    ids=["page", "empty", "zeros", "random", "zip", "json", "lfs", "gzip"],
)
def test_an_object_that_is_no_checkpoint(b2, cache, body, kind):
    """It is named as arrived from the bucket, kept out of the cache, and what to do is said."""
    b2.put(BUCKET, f"{PREFIX}y.pth", body)
    error = failed(b2, cache, "y.pth")
    assert isinstance(error, kind)
    assert error.path == f"y.pth as it arrived from bucket {BUCKET} under {PREFIX}"
    assert "not put into the cache" in str(error)


def test_a_checkpoint_that_asks_for_code(b2, cache, tmp_path):
    """It is kept out of the cache, its globals are named, and nothing of it runs."""
    import torch

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    buffer = io.BytesIO()
    torch.save({"model": Evil()}, buffer)
    b2.put(BUCKET, f"{PREFIX}evil.pth", buffer.getvalue())
    error = failed(b2, cache, "evil.pth")
    assert type(error) is UnsafeCheckpointError
    assert any("pathlib" in name for name in error.globals)
    assert not (tmp_path / "ran").exists()


# The disk.


def in_mounts(cache: Path, bucket: object, *commands: str, name: str = "x.pth", **task: object) -> dict:
    """Return the outcome of a process that sees the cache as these shell commands mount it."""
    cache.mkdir(exist_ok=True)
    with resolving(1, with_mounts(*commands)) as (process,):
        process.start(name, cache, bucket, **task)
        return process.outcome()


def test_a_file_larger_than_the_free_space_is_not_downloaded(b2, cache, checkpoint_bytes):
    """Where the size is known the disk is asked first; the error tells both sizes."""
    told = in_mounts(cache, b2_bucket(b2), f"mount -t tmpfs -o size=128k tmpfs {cache}")
    assert told["error"] == "InsufficientSpaceError"
    assert told["fields"]["needed_bytes"] == len(checkpoint_bytes)
    assert told["fields"]["free_bytes"] < len(checkpoint_bytes)
    assert b2.count("download") == 0
    assert all(path.endswith((".lock", ".failure")) for path in told["left"])


def test_a_disk_that_fills_up_meanwhile(b2, cache):
    """A disk that becomes full while it is written to is told as such, and no part stays."""
    b2.put(BUCKET, f"{PREFIX}big.pth", bytes(3_000_000))
    mount = f"mount -t tmpfs -o size=1m tmpfs {cache}"
    told = in_mounts(cache, b2_bucket(b2), mount, name="big.pth", action="fetch")
    assert told["error"] == "InsufficientSpaceError"
    assert told["fields"]["path"] == f"{cache}/big.pth"
    assert told["left"] == []


def test_a_disk_without_room_for_a_directory(b2, cache):
    """A disk that is full before anything begins is full, not unwritable."""
    told = in_mounts(cache, b2_bucket(b2), f"mount -t tmpfs -o nr_inodes=1 tmpfs {cache}")
    assert told["error"] == "InsufficientSpaceError"
    assert b2.count("download") == 0


def test_a_full_bucket_directory_is_the_one_that_is_named(cache, tmp_path, checkpoint_bytes):
    """When an upload fills the bucket's disk, the error names the bucket and not the file at home."""
    cache.mkdir()
    (cache / "x.pth").write_bytes(checkpoint_bytes)
    bucket = tmp_path / "full"
    bucket.mkdir()
    mount = f"mount -t tmpfs -o size=128k tmpfs {bucket}"
    told = in_mounts(cache, directory_bucket(bucket), mount, action="send")
    assert told["error"] == "InsufficientSpaceError"
    assert str(bucket) in told["fields"]["path"]
    assert str(cache) not in told["text"]


def read_only(cache: Path, *made: str) -> list[str]:
    """Return the commands that make the cache a read-only filesystem holding these files."""
    files = [f"echo content > {cache}/{name}" for name in made]
    return [f"mount -t tmpfs tmpfs {cache}", *files, f"mount -o remount,ro {cache}"]


def test_a_read_only_cache_still_serves_what_it_holds(b2, cache):
    """A hit writes nothing."""
    told = in_mounts(cache, b2_bucket(b2), *read_only(cache, "x.pth"))
    assert told["path"] == f"{cache}/x.pth"
    assert b2.requests == []


def test_a_read_only_cache_says_why_a_miss_can_not_be_fetched(b2, cache):
    """The error names the cache, the reason and what to do, before a download is tried."""
    told = in_mounts(cache, b2_bucket(b2), *read_only(cache))
    assert told["error"] == "SaveError"
    assert "Read-only file system" in told["text"]
    assert str(cache) in told["text"]
    assert "CACHE_DIR" in told["text"]
    assert b2.count("download") == 0


def test_a_cache_that_is_a_file_says_so(b2, tmp_path):
    """A cache that can't be a directory is a cache that can't be written."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LinnaeusError, match="the cache can't be written"):
        resolve_in("x.pth", str(tmp_path / "file"), b2_bucket(b2))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_to_nothing_in_the_cache_is_not_taken_for_the_download(b2, cache):
    """A path that leads nowhere is never given back."""
    cache.mkdir()
    (cache / "x.pth").symlink_to("/nowhere/x.pth")
    with pytest.raises(CheckpointInvalidError, match="link to nothing"):
        resolve_in("x.pth", str(cache), b2_bucket(b2))
    assert b2.count("download") == 0
