"""The child process that transfers: watched, ended in time, and never outliving its parent."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import linnaeus
from linnaeus.errors import RcloneMissingError, RemoteAuthError, RemoteError, RemoteTimeoutError
from linnaeus.remote import open_remote
from linnaeus.remote._child import DeadlineError, run_child
from linnaeus.remote._retry import Retry
from support.buckets import PREFIX, b2_bucket, directory_bucket, remote_bucket
from support.processes import wait_until

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def run(script, *, idle=20.0, total=None, stats=lambda _: None):
    """Run a shell script as the child."""
    return run_child(
        ["sh", "-c", script], ENVIRONMENT, idle_seconds=idle, total_seconds=total, on_stats=stats
    )


def stats_line(done):
    """Return a line of shell that prints rclone's statistics."""
    return f"echo '{json.dumps({'msg': '', 'stats': {'bytes': done}})}' >&2"


def fake_rclone(directory: Path, script: str) -> str:
    """Make a program that stands for rclone, and return its path."""
    path = directory / "rclone"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_status_output_and_messages_are_told_apart():
    """What is printed is the answer; what is logged are messages, also such as are no JSON."""
    outcome = run(
        """echo '{"a": 1}'; echo '{"msg": " one "}' >&2; echo 'panic: two' >&2; printf three >&2; exit 7"""
    )
    assert outcome.status == 7
    assert json.loads(outcome.output) == {"a": 1}
    assert outcome.messages == ["one", "panic: two", "three"]


def test_statistics_are_passed_on_and_are_no_messages():
    """Progress is told as it comes."""
    seen = []
    outcome = run(f"{stats_line(1)}; {stats_line(2)}", stats=seen.append)
    assert [stats["bytes"] for stats in seen] == [1, 2]
    assert outcome.messages == []


def test_much_output_on_both_pipes_blocks_nobody():
    """A child that fills both pipes is read to its end."""
    outcome = run("for i in $(seq 20000); do echo 0123456789; echo 0123456789 >&2; done")
    assert len(outcome.output) == 11 * 20_000
    assert len(outcome.messages) == 20_000


def test_a_child_without_progress_is_ended():
    """Silence, and statistics that stand still, end it after the idle deadline."""
    for script in ("exec sleep 60", f"{stats_line(5)}; while sleep 0.1; do {stats_line(5)}; done"):
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"no progress for 0\.5 s"):
            run(script, idle=0.5)
        assert time.monotonic() - started < 10


def test_progress_keeps_it_alive_until_the_total_deadline():
    """A transfer that never ends is ended too."""
    moving = "i=0; while sleep 0.1; do i=$((i+99999)); echo '{\"stats\": {\"bytes\": '$i'}}' >&2; done"
    with pytest.raises(DeadlineError, match=r"not done within 1\.5 s"):
        run(moving, idle=0.8, total=1.5)


def test_a_trickle_is_ended():
    """What moves too slowly ever to end is taken for what stands still."""
    trickle = "i=0; while sleep 0.1; do i=$((i+1)); echo '{\"stats\": {\"bytes\": '$i'}}' >&2; done"
    with pytest.raises(DeadlineError, match="less than 1024 bytes a second"):
        run(trickle, idle=0.8, total=60)


_PARENT = """
import sys
from linnaeus.remote._child import run_child
run_child(["sleep", "300"], {"PATH": "/usr/bin:/bin"}, idle_seconds=99, total_seconds=None, on_stats=print)
"""


def test_it_dies_with_its_parent():
    """Kill -9 of the process that transfers leaves no transfer running."""
    source = str(Path(linnaeus.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", _PARENT], env={"PYTHONPATH": source}) as parent:
        beneath = psutil.Process(parent.pid)
        wait_until(lambda: [child.name() for child in beneath.children()] == ["sleep"])
        (child,) = beneath.children()
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_an_exception_while_watching_ends_it(tmp_path):
    """When the watcher fails, for example by Ctrl-C, the child does not go on."""

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(f"echo $$ > {tmp_path}/pid; {stats_line(1)}; exec sleep 60", stats=interrupt)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_program_that_can_not_start_is_a_missing_rclone(local_bucket, tmp_path, monkeypatch):
    """A broken program is named, with what to do."""
    broken = tmp_path / "rclone"
    broken.write_bytes(b"\x7fELF garbage")
    broken.chmod(0o755)
    monkeypatch.setenv("LINNAEUS_RCLONE", str(broken))
    with pytest.raises(RcloneMissingError, match="can't be started"):
        open_remote(directory_bucket(local_bucket)).files()


def test_a_secret_is_redacted_before_the_message_is_cut(tmp_path, monkeypatch):
    """A message that is cut in the middle of a key shows no half of it."""
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "0012MARKEDIDMARKED")
    monkeypatch.setenv("B2_APPLICATION_KEY", "K001MARKEDKEYMARKED")
    for padding in range(280, 300, 3):
        line = json.dumps({"msg": f"{'x' * padding}K001MARKEDKEYMARKED"})
        monkeypatch.setenv("LINNAEUS_RCLONE", fake_rclone(tmp_path, f"echo '{line}' >&2; exit 1"))
        with pytest.raises(RemoteError) as caught:
            open_remote(remote_bucket("", ENDPOINT="http://127.0.0.1:9")).files()
        assert "K00" not in caught.value.tail
        assert len(caught.value.tail) <= 300


def patient(bucket, attempts):
    """Return the bucket with so many attempts, and the list that their waits go to."""
    waits = []
    retry = Retry(attempts=attempts, sleep=waits.append, jitter=lambda: 1.0)
    return replace(open_remote(bucket), retry=retry), waits


@pytest.mark.parametrize("fault", ["cut", "hangup", "damage", 500, 503, 429, 401, "refuse"])
def test_what_may_mend_is_tried_again_until_it_works(b2, tmp_path, checkpoint_bytes, fault):
    """Two failures of any passing kind cost two waits, and the file is then whole."""
    remote, waits = patient(b2_bucket(b2), 3)
    # Go's HTTP client asks once more by itself when a connection is reset before an answer
    b2.fault("download", fault, times=4 if fault == "refuse" else 2)
    remote.fetch("x.pth", tmp_path / "x.pth")
    assert waits == [0.5, 1.0]
    assert (tmp_path / "x.pth").read_bytes() == checkpoint_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]


@pytest.mark.parametrize("fault", [403, "download_cap_exceeded", "transaction_cap_exceeded"])
def test_what_will_not_mend_is_not_tried_again(b2, tmp_path, fault):
    """A refusal waits for nothing and makes one request."""
    remote, waits = patient(b2_bucket(b2), 3)
    b2.fault("download", fault)
    with pytest.raises(RemoteAuthError):
        remote.fetch("x.pth", tmp_path / "x.pth")
    assert waits == []
    assert b2.count("download") == 1


def test_a_total_deadline_ends_the_retries(b2, tmp_path):
    """TOTAL_TIMEOUT_SECONDS is for the act with all its attempts."""
    remote, waits = patient(b2_bucket(b2, IDLE_TIMEOUT_SECONDS=0.4, TOTAL_TIMEOUT_SECONDS=1.0), 50)
    b2.fault("download", "stall")
    with pytest.raises(RemoteTimeoutError) as caught:
        remote.fetch("x.pth", tmp_path / "x.pth")
    assert 1 < caught.value.attempts < 10
    assert len(waits) == caught.value.attempts - 1


def test_what_there_is_is_listed_with_its_digests(b2, checkpoint_bytes):
    """A listing has names and sizes in order; a look-up has the digest on request, and None for no file."""
    b2.put("linnaeus-checkpoints", f"{PREFIX}a.pth", b"12345")
    b2.put("linnaeus-checkpoints", f"{PREFIX}deep/b.pth", b"12345")
    remote = open_remote(b2_bucket(b2))
    assert [(file.name, file.size_bytes) for file in remote.files()] == [
        ("a.pth", 5),
        ("x.pth", len(checkpoint_bytes)),
    ]
    found = remote.stat("x.pth", digests=True)
    assert found is not None
    assert found.digests == {"sha1": hashlib.sha1(checkpoint_bytes, usedforsecurity=False).hexdigest()}
    assert remote.stat("none.pth") is None
