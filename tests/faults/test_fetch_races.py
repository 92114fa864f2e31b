"""Many processes, one name: one download, one outcome; and whoever dies is replaced and swept after."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from linnaeus.config import BucketConfig
from linnaeus.files import _owner
from linnaeus.resolving import resolve_in
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import names, tree
from support.processes import Resolving, children, open_files, resolving, wait_until

WORK = ".linnaeus"


def temporaries(cache: Path) -> list[str]:
    """Return what downloads have left, or are at work on."""
    return [name for name in names(cache / WORK) if name.endswith(".tmp")]


def stalled(server: B2Server, cache: Path, process: Resolving, **settings: object) -> None:
    """Set a process to work, and return when its download has begun and stands still."""
    server.fault("download", "stall", times=1)
    process.start("x.pth", cache, b2_bucket(server, **settings))
    wait_until(lambda: server.count("download") == 1 and bool(temporaries(cache)))


def wait_for_it(cache: Path, bucket: BucketConfig, processes: Sequence[Resolving]) -> None:
    """Set processes to work on the same name, and return when all stand at the lock that another holds."""
    for process in processes:
        process.start("x.pth", cache, bucket)
    (lock,) = (cache / WORK).glob("*.lock")
    for process in processes:
        wait_until(lambda pid=process.pid: lock in open_files(pid))


def test_eight_processes_download_once(b2, cache, checkpoint_bytes):
    """All get the same path, the bytes pass once, and nothing else is left."""
    with resolving(8) as processes:
        for process in processes:
            process.start("x.pth", cache, b2_bucket(b2))
        outcomes = [process.outcome() for process in processes]
    assert {outcome.get("path") for outcome in outcomes} == {str(cache / "x.pth")}, outcomes
    assert b2.count("download") == 1
    assert b2.bytes_served(f"{PREFIX}x.pth") == len(checkpoint_bytes)
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert temporaries(cache) == []


def test_eight_processes_are_right_without_locks_too(b2, cache, checkpoint_bytes):
    """Where locks do nothing, several download; each returns the one whole file, and nothing is left over."""
    with resolving(8) as processes:
        for process in processes:
            process.start("x.pth", cache, b2_bucket(b2), locks=False)
        outcomes = [process.outcome() for process in processes]
    assert {outcome.get("path") for outcome in outcomes} == {str(cache / "x.pth")}, outcomes
    assert b2.count("download") > 1
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert tree(cache) == [WORK, "x.pth"]


def test_each_download_has_a_directory_of_its_own(b2, cache):
    """Two that download at once never write to the same file."""
    b2.fault("download", "stall", times=2)
    with resolving(2) as processes:
        for process in processes:
            process.start("x.pth", cache, b2_bucket(b2, IDLE_TIMEOUT_SECONDS=30.0), locks=False)
        wait_until(lambda: b2.count("download") == 2 and len(temporaries(cache)) == 2)
        assert len(set(temporaries(cache))) == 2
        assert "x.pth" not in names(cache)


def test_others_take_over_when_the_downloader_is_killed(b2, cache, checkpoint_bytes):
    """After kill -9 of the one that downloads another does it at once; the transfer dies too."""
    with resolving(4) as (first, *others):
        stalled(b2, cache, first, IDLE_TIMEOUT_SECONDS=60.0)
        (transfer,) = children(first.pid)
        wait_for_it(cache, b2_bucket(b2), others)
        first.kill()
        outcomes = [other.outcome() for other in others]
    assert {outcome.get("path") for outcome in outcomes} == {str(cache / "x.pth")}, outcomes
    assert b2.count("download") == 2
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    wait_until(lambda: not transfer.is_running() or transfer.status() == psutil.STATUS_ZOMBIE)


def test_the_next_fetch_sweeps_what_a_killed_one_left(b2, cache, checkpoint_bytes):
    """The private directory of a dead process is removed by whoever fetches next, also another name."""
    b2.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
    with resolving(1) as (process,):
        stalled(b2, cache, process, IDLE_TIMEOUT_SECONDS=60.0)
        process.kill()
    assert len(temporaries(cache)) == 1
    resolve_in("y.pth", str(cache), b2_bucket(b2))
    assert temporaries(cache) == []


def test_a_running_download_is_not_swept(b2, cache, checkpoint_bytes):
    """What belongs to a living process stays, whoever else fetches."""
    b2.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
    with resolving(1) as (process,):
        stalled(b2, cache, process, IDLE_TIMEOUT_SECONDS=60.0)
        before = temporaries(cache)
        resolve_in("y.pth", str(cache), b2_bucket(b2))
        assert temporaries(cache) == before


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_stale_temporaries_of_any_kind_are_swept(b2, cache, kind):
    """Left by a process that is long gone: removed, with all that is in it."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = cache / WORK / f".x.pth.{_owner._machine()}-{dead.pid}-1-0a1b2c3d.tmp"
    left.parent.mkdir(parents=True)
    if kind == "directory":
        left.mkdir()
        (left / "x.pth.partial").write_bytes(b"half")
    else:
        left.touch()
    resolve_in("x.pth", str(cache), b2_bucket(b2))
    assert temporaries(cache) == []


def test_an_interrupted_download_leaves_nothing(b2, cache):
    """Ctrl-C ends the transfer and removes what had arrived."""
    with resolving(1) as (process,):
        stalled(b2, cache, process, IDLE_TIMEOUT_SECONDS=60.0)
        (transfer,) = children(process.pid)
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: temporaries(cache) == [])
        wait_until(lambda: not transfer.is_running() or transfer.status() == psutil.STATUS_ZOMBIE)
    assert "x.pth" not in names(cache)


def test_a_failure_is_told_to_all_who_wait(b2, cache):
    """One set of attempts; everybody who waited gets that error, with all its fields."""
    with resolving(4) as (first, *others):
        stalled(b2, cache, first, IDLE_TIMEOUT_SECONDS=60.0)
        wait_for_it(cache, b2_bucket(b2), others)
        (transfer,) = children(first.pid)
        transfer.kill()
        outcomes = [process.outcome() for process in (first, *others)]
    assert outcomes[0]["error"] == "RemoteError"
    assert [outcome["text"] for outcome in outcomes] == [outcomes[0]["text"]] * 4
    assert [outcome["fields"] for outcome in outcomes] == [outcomes[0]["fields"]] * 4
    assert b2.count("download") == 1


def test_an_earlier_failure_is_not_told_to_who_comes_later(b2, cache, checkpoint_bytes):
    """Who did not wait tries for himself, and success forgets the failure."""
    b2.fault("download", 503, times=1)
    with resolving(1) as (process,):
        process.start("x.pth", cache, b2_bucket(b2))
        assert process.outcome()["error"] == "RemoteError"
    assert resolve_in("x.pth", str(cache), b2_bucket(b2)) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert not [name for name in tree(cache) if name.endswith(".failure")]


def test_two_names_are_fetched_side_by_side(b2, cache, checkpoint_bytes):
    """A download that stands still holds up nobody who wants another file."""
    b2.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
    with resolving(1) as (process,):
        stalled(b2, cache, process, IDLE_TIMEOUT_SECONDS=60.0)
        assert resolve_in("y.pth", str(cache), b2_bucket(b2)) == str(cache / "y.pth")
