"""Uploads that a killed process has begun: the run's own are dropped, and nothing else goes with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.config import OutputBucketConfig
from linnaeus.errors import RemoteAuthError, RemoteError, RemoteNotFoundError
from linnaeus.remote import open_in_background, open_remote
from linnaeus.remote._session import hidden_versions
from linnaeus.saving._copies import Copies
from linnaeus.saving._retention import Retention
from support.b2_server import B2Server
from support.buckets import BUCKET
from support.processes import wait_until

RUN = "runs/shared/"
PARTS = {
    "RCLONE_CONFIG_LINNAEUS_UPLOAD_CUTOFF": "5Mi",
    "RCLONE_CONFIG_LINNAEUS_CHUNK_SIZE": "5Mi",
}

SEND = """
import sys
from pathlib import Path
from linnaeus.config import OutputBucketConfig
from linnaeus.remote import open_in_background
bucket = OutputBucketConfig(NAME=sys.argv[1], PATH_PREFIX=sys.argv[2], ENDPOINT=sys.argv[3])
open_in_background(bucket).send(Path(sys.argv[4]), Path(sys.argv[4]).name, mark=sys.argv[5])
"""


def bucket_of(server: B2Server, **changes: object) -> OutputBucketConfig:
    """Return the place that two runs share."""
    plain = {"NAME": BUCKET, "PATH_PREFIX": RUN, "ENDPOINT": server.endpoint, "RETRIES": 2}
    return OutputBucketConfig(**(plain | changes))


def begun(server: B2Server) -> list[str]:
    """Return the names of the uploads that were begun and not ended."""
    bucket = server._store.bucket(BUCKET)
    return [v.name.removeprefix(RUN) for vs in bucket.versions.values() for v in vs if v.action == "start"]


def kill_in_the_middle(server: B2Server, path: Path, mark: str) -> None:
    """Send a file in parts, and kill the sender when the second part is on its way."""
    before = server.count("upload_part")
    server.fault("upload_part", "stall", after_bytes=0)
    arguments = [sys.executable, "-c", SEND, BUCKET, RUN, server.endpoint, str(path), mark]
    with subprocess.Popen(arguments, env=os.environ | PARTS) as process:
        wait_until(lambda: server.count("upload_part") > before)
        process.send_signal(signal.SIGKILL)
    server.clear_faults()


@pytest.fixture
def large(tmp_path):
    """A checkpoint that is sent in parts."""
    path = tmp_path / "checkpoint_epoch_1.pth"
    linnaeus.save({"model": {"w": torch.randn(3 << 20)}}, path)
    return path


def test_only_what_the_run_itself_began_is_dropped(b2, large, tmp_path):
    """Of two runs that share a place, each drops its own; no version of any file goes with it."""
    b2.put(BUCKET, f"{RUN}checkpoint_epoch_1.pth", b"older, of somebody")
    b2.put(BUCKET, f"{RUN}checkpoint_epoch_1.pth", b"newer, of somebody")
    b2.put(BUCKET, f"{RUN}notes.txt", b"1")
    b2.put(BUCKET, f"{RUN}notes.txt", b"2")
    other = large.with_name("checkpoint_epoch_2.pth")
    large.rename(other)
    kill_in_the_middle(b2, other, "first-run")
    other.rename(large)
    kill_in_the_middle(b2, large, "second-run")
    kill_in_the_middle(b2, large, "")
    assert begun(b2) == ["checkpoint_epoch_1.pth", "checkpoint_epoch_1.pth", "checkpoint_epoch_2.pth"]
    first = Copies(tmp_path, open_in_background(bucket_of(b2)), Retention(), lambda: "first-run")
    first.drop_unfinished()
    assert begun(b2) == ["checkpoint_epoch_1.pth", "checkpoint_epoch_1.pth"]
    assert open_remote(bucket_of(b2)).drop_unfinished("second-run") == ["checkpoint_epoch_1.pth"]
    assert begun(b2) == ["checkpoint_epoch_1.pth"]
    assert len(b2.versions(BUCKET, f"{RUN}checkpoint_epoch_1.pth")) == 3
    assert len(b2.versions(BUCKET, f"{RUN}notes.txt")) == 2
    assert b2.objects(BUCKET)[f"{RUN}checkpoint_epoch_1.pth"] == b"newer, of somebody"


def test_one_page_of_them_is_not_all(b2, tmp_path):
    """However many there are, and in whichever folder: those of this place and this run."""
    bucket = b2._store.bucket(BUCKET)
    for number in range(230):
        info = {"linnaeus-run": "mine" if number % 2 else "other"}
        b2._store.add(bucket, f"{RUN}checkpoint_epoch_{number}.pth", "start", info=info)
    b2._store.add(bucket, "elsewhere/checkpoint_epoch_1.pth", "start", info={"linnaeus-run": "mine"})
    assert len(open_remote(bucket_of(b2)).drop_unfinished("mine")) == 115
    assert len(begun(b2)) == 116


@pytest.mark.parametrize(
    ("operation", "fault", "kind"),
    [
        ("authorize", 401, RemoteError),
        ("list_unfinished_large_files", 403, RemoteAuthError),
        ("list_unfinished_large_files", 503, RemoteError),
        ("cancel_large_file", "refuse", RemoteError),
        ("list_buckets", "stall", RemoteError),
    ],
)
def test_a_bucket_that_refuses_or_fails_is_told(b2, operation, fault, kind):
    """As what it is; a run goes on without."""
    b2._store.add(
        b2._store.bucket(BUCKET), f"{RUN}checkpoint_epoch_1.pth", "start", info={"linnaeus-run": "mine"}
    )
    b2.fault(operation, fault)
    bucket = bucket_of(b2, CONNECT_TIMEOUT_SECONDS=0.5, IDLE_TIMEOUT_SECONDS=0.5)
    with pytest.raises(kind):
        open_remote(bucket).drop_unfinished("mine")
    Copies(Path("/nowhere"), open_in_background(bucket), Retention(), lambda: "mine").drop_unfinished()
    b2.clear_faults()
    assert open_remote(bucket).drop_unfinished("mine") == ["checkpoint_epoch_1.pth"]


def test_what_is_done_is_done(b2):
    """The answer to a cancellation is lost, and the next try finds nothing left to cancel."""
    name = f"{RUN}checkpoint_epoch_1.pth"
    b2._store.add(b2._store.bucket(BUCKET), name, "start", info={"linnaeus-run": "mine"})
    b2.fault("cancel_large_file", "cut", times=1)
    assert open_remote(bucket_of(b2)).drop_unfinished("mine") == ["checkpoint_epoch_1.pth"]
    assert begun(b2) == []


def test_a_bucket_that_is_not_there_has_none(b2):
    """It is said that there is no such bucket."""
    with pytest.raises(RemoteNotFoundError):
        open_remote(bucket_of(b2, NAME="nosuch")).drop_unfinished("mine")


def test_what_is_to_be_seen_is_never_among_the_hidden(b2):
    """Also where a begun upload stands before it; the versions of other names aren't either."""
    for data in (b"1", b"22", b"333"):
        b2.put(BUCKET, f"{RUN}a.pth", data)
    b2.put(BUCKET, f"{RUN}a-b.pth", b"4444")
    for _ in range(2):
        with open_remote(bucket_of(b2)).session() as session:
            assert sorted(file.size_bytes for file in session.versions("a.pth")) == [1, 2]
        b2._store.add(b2._store.bucket(BUCKET), f"{RUN}a.pth", "start")
    assert hidden_versions("a.pth", []) == []
