"""A large file comes over several streams, and a cut or a kill costs only what was on its way."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path

import pytest
import torch

from linnaeus.errors import (
    CorruptCheckpointError,
    LinnaeusError,
    RemoteAuthError,
    RemoteError,
    RemoteTimeoutError,
)
from linnaeus.resolving import resolve_in
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket, directory_bucket
from support.directories import names
from support.mounts import with_mounts
from support.processes import resolving, wait_until

OBJECT = f"{PREFIX}big.pth"
MEBIBYTE = 1 << 20


def made(seed: int, mebibytes: int = 24) -> bytes:
    """Return a checkpoint of that size."""
    noise = torch.randn(mebibytes * MEBIBYTE // 4, generator=torch.Generator().manual_seed(seed))
    buffer = io.BytesIO()
    torch.save({"model": {"weight": noise}}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data() -> bytes:
    """The object's bytes."""
    return made(0)


@pytest.fixture
def server(b2: B2Server, data: bytes) -> B2Server:
    """A server that holds it."""
    b2.put(BUCKET, OBJECT, data)
    return b2


def kept(cache: Path) -> list[str]:
    """Return what of downloads lies in the cache, whole or not."""
    hidden = names(cache / ".linnaeus") if (cache / ".linnaeus").is_dir() else []
    return [name for name in hidden if ".part" in name] + [name for name in names(cache) if name[0] != "."]


def test_it_arrives_whole_over_several_streams(server, cache, data):
    """Each byte is asked for once, by more than one request; nothing is left beside the file."""
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) == len(data)
    assert server.count("download") > 4
    assert kept(cache) == ["big.pth"]


def test_progress_ends_at_the_whole(server, cache, data):
    """Who watches sees it grow, and come to its end."""
    seen = []
    resolve_in("big.pth", str(cache), b2_bucket(server), progress=seen.append)
    assert (seen[-1].done_bytes, seen[-1].total_bytes, seen[-1].name) == (len(data), len(data), "big.pth")
    assert [t.done_bytes for t in seen] == sorted(t.done_bytes for t in seen)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_a_killed_process_had_is_not_fetched_again(server, cache, data, share):
    """Killed at any time and started again, at most a twentieth is served twice: what was on its way."""
    server.limit_rate(10e6)
    with resolving(1) as (process,):
        process.start("big.pth", cache, b2_bucket(server, IDLE_TIMEOUT_SECONDS=60.0))
        wait_until(lambda: server.bytes_served(OBJECT) >= share * len(data))
        server.fault("download", "stall", after_bytes=0)  # so that it can't be done before it is killed
        process.kill()
    server.clear_faults()
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)
    assert kept(cache) == ["big.pth"]


@pytest.mark.parametrize("fault", ["cut", "hangup"])
def test_cuts_cost_no_byte_twice(server, cache, data, fault):
    """Streams are cut in their middle, again and again."""
    server.fault("download", fault, times=4)
    resolve_in("big.pth", str(cache), b2_bucket(server, RETRIES=3))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)


@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_at_every_tenth_is_survived(server, cache, data, tenth):
    """Wherever in a stream."""
    server.fault("download", "cut", times=2, after_bytes=tenth * 2 * MEBIBYTE // 10)
    resolve_in("big.pth", str(cache), b2_bucket(server, RETRIES=3, STREAMS=2))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)


FAILURES = {
    "hangup": (RemoteError, 0),
    503: (RemoteError, None),
    403: (RemoteAuthError, None),
    "download_cap_exceeded": (RemoteAuthError, None),
    "refuse": (RemoteError, None),
    "stall": (RemoteTimeoutError, 0),
    "trickle": (RemoteTimeoutError, 5000),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failed_try_is_gone_on_with(server, cache, data, fault):
    """Whatever ended it, the error says what it was, and the next try fetches only what is missing."""
    kind, after_bytes = FAILURES[fault]
    failed_half_way(server, cache)
    server.fault("download", fault, after_bytes=after_bytes)
    with pytest.raises(LinnaeusError) as caught:
        resolve_in("big.pth", str(cache), b2_bucket(server, RETRIES=2, IDLE_TIMEOUT_SECONDS=0.5))
    assert type(caught.value) is kind
    assert len(kept(cache)) == 1
    server.clear_faults()
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)
    assert kept(cache) == ["big.pth"]


def failed_half_way(server: B2Server, cache: Path) -> Path:
    """Let a download fail, and return the directory that it left."""
    server.fault("download", "hangup", after_bytes=900_000)
    with pytest.raises(RemoteError):
        resolve_in("big.pth", str(cache), b2_bucket(server, RETRIES=1))
    server.clear_faults()
    (name,) = kept(cache)
    return cache / ".linnaeus" / name


def test_an_object_that_was_replaced_is_fetched_anew(server, cache):
    """What was brought of the old one is no part of the new one."""
    failed_half_way(server, cache)
    other = made(1)
    server.put(BUCKET, OBJECT, other)
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == other


def test_bytes_that_a_power_loss_forgot_are_found_out(server, cache, data):
    """The journal claims more than the disk has; the digest of the whole tells, and it begins again."""
    left = failed_half_way(server, cache)
    size = (left / "data").stat().st_size
    (left / "data").write_bytes(bytes(size))
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data


@pytest.mark.parametrize("torn", ["", "{", "[]", json.dumps({"object": 1, "span_bytes": "x"})])
def test_a_torn_journal_begins_again(server, cache, data, torn):
    """Half a journal is none."""
    left = failed_half_way(server, cache)
    (left / "of.json").write_text(torn)
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data


def test_damage_on_the_way_is_fetched_again(server, cache, data):
    """One flipped bit is found by the bucket's digest."""
    server.fault("download", "damage", times=1, after_bytes=10_000_000)
    resolve_in("big.pth", str(cache), b2_bucket(server, STREAMS=2))
    assert (cache / "big.pth").read_bytes() == data


@pytest.mark.parametrize("sha1", [True, False])
def test_damage_in_the_bucket_never_enters_the_cache(server, cache, data, sha1):
    """By its digest, or by its own checksums where the bucket keeps none; and nothing of it is kept."""
    damaged = bytearray(data)
    damaged[10_000_000] ^= 1
    server.put(BUCKET, OBJECT, bytes(damaged), sha1=False)
    if sha1:
        server.put(BUCKET, OBJECT, data)
        server.fault("download", "damage", after_bytes=10_000_000)
    with pytest.raises(CorruptCheckpointError):
        resolve_in("big.pth", str(cache), b2_bucket(server, STREAMS=1))
    assert kept(cache) == []


def test_a_large_file_of_the_bucket_that_came_in_parts(server, cache, data):
    """Its SHA-1 stands in its info, and is compared."""
    server.put(BUCKET, OBJECT, data, large=True)
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert hashlib.sha256((cache / "big.pth").read_bytes()).hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_token_that_expires_on_the_way(server, cache, data):
    """It is renewed, and what had come is kept."""
    expired = []

    def expire(transfer):
        if not expired:
            expired.append(transfer)
            server.expire_tokens()

    server.fault("download", "stall", times=1, after_bytes=0)
    resolve_in(
        "big.pth",
        str(cache),
        b2_bucket(server, RETRIES=3, IDLE_TIMEOUT_SECONDS=1.0, STREAMS=1),
        progress=expire,
    )
    assert expired
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)


def test_a_directory_serves_as_well(cache, tmp_path, data):
    """The same way, through rclone."""
    place = tmp_path / "bucket" / PREFIX
    place.mkdir(parents=True)
    (place / "big.pth").write_bytes(data)
    resolve_in("big.pth", str(cache), directory_bucket(tmp_path / "bucket"))
    assert (cache / "big.pth").read_bytes() == data


def test_an_interrupted_download_is_gone_on_with(server, cache, data):
    """Control-C ends it at once, and keeps what came."""

    def interrupt(transfer):
        raise KeyboardInterrupt

    server.fault("download", "stall", after_bytes=900_000)
    with pytest.raises(KeyboardInterrupt):
        resolve_in("big.pth", str(cache), b2_bucket(server, IDLE_TIMEOUT_SECONDS=60.0), progress=interrupt)
    server.clear_faults()
    resolve_in("big.pth", str(cache), b2_bucket(server))
    assert (cache / "big.pth").read_bytes() == data
    assert server.bytes_served(OBJECT) <= 1.05 * len(data)


def test_a_disk_that_becomes_full_is_told(server, cache, data):
    """There was room at first, and somebody else took it: told as that, and no part is left to take more."""
    commands = [f"mkdir -p {cache}", f"mount -t tmpfs -o size=40m none {cache}"]
    server.limit_rate(5e6)
    with resolving(1, with_mounts(*commands)) as (process,):
        process.start("big.pth", cache, b2_bucket(server))
        wait_until(lambda: server.bytes_served(OBJECT) > 4 * MEBIBYTE)
        seen = Path(f"/proc/{process.pid}/root{cache}/other")
        with seen.open("wb") as other, contextlib.suppress(OSError):
            while True:
                other.write(bytes(MEBIBYTE))
        server.limit_rate(None)
        told = process.outcome()
    assert told["error"] == "InsufficientSpaceError", told
    assert [path for path in told["left"] if ".part" in path or path.endswith(".pth")] == []


def test_a_disk_without_room_is_told_first(server, cache):
    """Before a byte is fetched, and nothing is left."""
    commands = [f"mkdir -p {cache}", f"mount -t tmpfs -o size=8m none {cache}"]
    with resolving(1, with_mounts(*commands)) as (process,):
        process.start("big.pth", cache, b2_bucket(server))
        told = process.outcome()
    assert told["error"] == "InsufficientSpaceError"
    assert server.bytes_served(OBJECT) == 0
    assert [path for path in told["left"] if ".part" in path or path.endswith(".pth")] == []
