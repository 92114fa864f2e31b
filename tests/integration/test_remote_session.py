"""One sign-in for many looks: ranges, listings, look-ups; and the errors of each."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from linnaeus.errors import (
    LinnaeusError,
    RemoteAuthError,
    RemoteError,
    RemoteNotFoundError,
    RemoteTimeoutError,
)
from linnaeus.remote import open_remote
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket, directory_bucket, remote_bucket
from support.processes import children, wait_until
from support.s3_server import serve_s3

NAME = "a name, 50% [odd] #1?.pth"
DATA = bytes(range(256)) * 4096


@pytest.fixture
def server(b2: B2Server) -> B2Server:
    """The server with one object of an awkward name, and no requests counted yet."""
    b2.put(BUCKET, PREFIX + NAME, DATA)
    return b2


def test_a_listing_and_a_range_cost_five_requests(server):
    """Sign in, find the bucket, list; then look and read: nothing more."""
    with open_remote(b2_bucket(server)).session() as session:
        (found,) = [file for file in session.files() if file.name == NAME]
        assert session.read(NAME, 1000, 500) == DATA[1000:1500]
    assert found.size_bytes == len(DATA)
    assert found.version == server.versions(BUCKET, PREFIX + NAME)[0]["fileId"]
    assert sorted(record.operation for record in server.requests) == [
        "authorize",
        "download",
        "head",
        "list",
        "list_buckets",
    ]
    assert server.bytes_served(PREFIX + NAME) == 500


def test_a_look_up_tells_the_digest(server):
    """With the SHA-1 that the bucket keeps; None for what is not there."""
    with open_remote(b2_bucket(server)).session() as session:
        assert session.stat(NAME).digests == {
            "sha1": server.versions(BUCKET, PREFIX + NAME)[0]["contentSha1"]
        }
        assert session.stat("nosuch.pth") is None


def test_a_directory_is_read_in_ranges_too(tmp_path):
    """Whatever characters its path has."""
    place = tmp_path / "a [b] c" / PREFIX
    place.mkdir(parents=True)
    (place / NAME).write_bytes(DATA)
    with open_remote(directory_bucket(tmp_path / "a [b] c")).session() as session:
        assert session.read(NAME, 5, 7) == DATA[5:12]
        assert [file.name for file in session.files()] == [NAME]


def test_s3_is_read_in_ranges_too(tmp_path, monkeypatch):
    """With the MD5 that it keeps."""
    (tmp_path / BUCKET / PREFIX).mkdir(parents=True)
    (tmp_path / BUCKET / PREFIX / NAME).write_bytes(DATA)
    with serve_s3(tmp_path) as s3:
        (tmp_path / "rclone.conf").write_text(s3.config_text("store"))
        monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
        with open_remote(remote_bucket("store")).session() as session:
            assert session.read(NAME, 5, 7) == DATA[5:12]
            assert list(session.stat(NAME).digests) == ["md5"]


ACTS = {
    "files": lambda session: session.files(),
    "stat": lambda session: session.stat(NAME),
    "read": lambda session: session.read(NAME, 0, 100_000),
}
OPERATIONS = {"files": "list", "stat": "head", "read": "download"}
REFUSALS = {
    403: (RemoteAuthError, 1),
    "download_cap_exceeded": (RemoteAuthError, 1),
    500: (RemoteError, 2),
    503: (RemoteError, 2),
    429: (RemoteError, 2),
    "refuse": (RemoteError, 2),
}


@pytest.mark.parametrize("fault", REFUSALS)
@pytest.mark.parametrize("act", ACTS)
def test_each_failure_is_the_error_that_it_means(server, act, fault):
    """With the number of attempts; refusals are tried once."""
    server.fault(OPERATIONS[act], fault)
    with (
        open_remote(b2_bucket(server, RETRIES=2)).session() as session,
        pytest.raises(LinnaeusError) as caught,
    ):
        ACTS[act](session)
    assert (type(caught.value), caught.value.attempts) == REFUSALS[fault]


@pytest.mark.parametrize("fault", [500, 503, 429, 401, "cut", "hangup", "refuse"])
@pytest.mark.parametrize("act", ACTS)
def test_what_passes_is_survived(server, act, fault):
    """One failure of a passing kind costs a retry."""
    server.fault(OPERATIONS[act], fault, times=1)
    with open_remote(b2_bucket(server, RETRIES=3)).session() as session:
        assert ACTS[act](session)


# A trickling answer to the others has no body, or one that rclone reads whole: a stall for us.
@pytest.mark.parametrize(("act", "fault"), [*((act, "stall") for act in ACTS), ("read", "trickle")])
def test_what_stands_still_or_trickles_is_given_up(server, act, fault):
    """After the idle deadline, not never."""
    server.fault(OPERATIONS[act], fault)
    with (
        open_remote(b2_bucket(server, RETRIES=1, IDLE_TIMEOUT_SECONDS=0.5)).session() as session,
        pytest.raises(RemoteTimeoutError),
    ):
        ACTS[act](session)


@pytest.mark.parametrize("act", ACTS)
def test_a_token_that_expires_is_renewed(server, act):
    """A session outlives the day that a token lasts."""
    with open_remote(b2_bucket(server, RETRIES=2)).session() as session:
        assert ACTS[act](session)
        server.expire_tokens()
        assert ACTS[act](session)
    assert server.count("authorize") == 2


def test_what_is_not_there_is_said_so(server):
    """A file, and a bucket."""
    with open_remote(b2_bucket(server)).session() as session, pytest.raises(RemoteNotFoundError):
        session.read("nosuch.pth", 0, 10)
    with (
        open_remote(b2_bucket(server, NAME="nosuch")).session() as session,
        pytest.raises(RemoteNotFoundError),
    ):
        session.files()


def test_nothing_is_left_running_or_lying_about(server, monkeypatch):
    """The process and its socket's directory end with the block; the directory is its owner's alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        _look_about(server, Path(place))


def _look_about(server: B2Server, place: Path) -> None:
    with open_remote(b2_bucket(server)).session() as session:
        (directory,) = place.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        assert len(children(os.getpid())) == 1
        session.files()
    assert children(os.getpid()) == []
    assert list(place.iterdir()) == []


def test_an_rclone_that_dies_is_an_error(server):
    """Told, and not waited for."""
    with open_remote(b2_bucket(server, RETRIES=1)).session() as session:
        (child,) = children(os.getpid())
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not child.is_running() or child.status() == "zombie")
        with pytest.raises(RemoteError):
            session.files()


def test_a_program_that_is_no_rclone_is_an_error(server, tmp_path, monkeypatch):
    """What it said is told."""
    program = tmp_path / "rclone"
    program.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("LINNAEUS_RCLONE", str(program))
    with pytest.raises(RemoteError, match="no such thing"), open_remote(b2_bucket(server)).session():
        pass


@pytest.mark.parametrize("fault", [503, 500, 429, 403, 401, "cut", "stall", "lost", "refuse", "damage"])
def test_a_bucket_that_could_not_be_looked_for_is_not_called_missing(server, fault):
    """Rclone calls it so, whatever happened; then a run would begin afresh that has copies there."""
    server.fault("list_buckets", fault)
    bucket = b2_bucket(server, RETRIES=1, CONNECT_TIMEOUT_SECONDS=0.5, IDLE_TIMEOUT_SECONDS=0.5)
    with open_remote(bucket).session() as session, pytest.raises(RemoteError) as caught:
        session.files()
    assert not isinstance(caught.value, RemoteNotFoundError)
    server.clear_faults()
    server.fault("list_buckets", fault, times=1)
    with open_remote(b2_bucket(server, RETRIES=2, IDLE_TIMEOUT_SECONDS=0.5)).session() as session:
        assert session.files()


def test_a_key_for_one_bucket_that_may_list_none_serves(monkeypatch, tmp_path, checkpoint_bytes):
    """As B2 gives them out for programs."""
    capabilities = ("listFiles", "readFiles", "writeFiles", "deleteFiles")
    with B2Server(buckets=[BUCKET], capabilities=capabilities, only_buckets=[BUCKET]) as restricted:
        for name, value in restricted.env().items():
            monkeypatch.setenv(name, value)
        (tmp_path / "x.pth").write_bytes(checkpoint_bytes)
        remote = open_remote(b2_bucket(restricted))
        remote.send(tmp_path / "x.pth", "x.pth", mark="run")
        assert [file.name for file in remote.files()] == ["x.pth"]
        assert remote.drop_unfinished("run") == []


def test_a_folder_that_nothing_was_put_into_is_empty(tmp_path):
    """Told from a bucket that is not there."""
    (tmp_path / "bucket").mkdir()
    with open_remote(directory_bucket(tmp_path / "bucket")).session() as session:
        assert session.files() == []
    with (
        open_remote(directory_bucket(tmp_path / "buket")).session() as session,
        pytest.raises(RemoteNotFoundError),
    ):
        session.files()
