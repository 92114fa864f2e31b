"""The lock between processes, free space, and digests."""

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from linnaeus.errors import InsufficientSpaceError
from linnaeus.files import Lock, file_digest, is_out_of_space, require_space

_HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
sys.stdout.write("held\\n"); sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock `lock`."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _HOLD, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_free_lock_is_taken_without_waiting(tmp_path):
    """Nobody is told of a wait, and nothing sleeps."""
    with Lock(tmp_path / "lock", on_wait=pytest.fail, sleep=lambda _: pytest.fail("slept")):
        pass
    with Lock(tmp_path / "lock", on_wait=pytest.fail):
        pass


def test_it_waits_for_another_process_and_takes_over_when_that_is_killed(tmp_path, holder):
    """The wait is told once; the holder's death by kill -9 ends it."""
    told, slept = [], []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            holder.kill()
            holder.wait()

    with Lock(tmp_path / "lock", on_wait=lambda: told.append(True), sleep=sleep):
        assert told == [True]
        assert len(slept) == 3


def test_it_excludes_while_it_is_held(tmp_path):
    """A second taker finds it taken, and free after the block."""
    with Lock(tmp_path / "lock"):
        descriptor = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_filesystem_without_locks_is_no_obstacle(tmp_path, monkeypatch, error):
    """Where flock is refused, the block runs all the same."""

    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Lock(tmp_path / "lock", on_wait=pytest.fail):
        pass


def test_other_failures_of_the_lock_are_passed_on_and_nothing_leaks(tmp_path, monkeypatch):
    """An I/O error is not taken for a missing feature, and its descriptor is closed."""

    def flock(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="input/output"), Lock(tmp_path / "lock"):
        pytest.fail("it was entered")
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_children_do_not_inherit_it(tmp_path):
    """A program started while it is held does not go on holding it."""
    with Lock(tmp_path / "lock"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    with Lock(tmp_path / "lock", on_wait=lambda: pytest.fail("the child holds it")):
        pass
    child.kill()
    child.wait()


def test_space_that_is_there_is_enough(tmp_path):
    """A small file fits."""
    require_space(tmp_path / "x.pth", 1000)


def test_more_than_is_free_is_refused_with_both_sizes(tmp_path):
    """The error names the file, what it needs and what there is."""
    needed = shutil.disk_usage(tmp_path).total + 1
    with pytest.raises(InsufficientSpaceError) as caught:
        require_space(tmp_path / "x.pth", needed)
    assert caught.value.path == str(tmp_path / "x.pth")
    assert caught.value.needed_bytes == needed
    assert 0 < caught.value.free_bytes < needed


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EDQUOT, ""), True),
        (OSError(errno.EROFS, ""), False),
        (ValueError(), False),
    ],
)
def test_a_full_disk_and_a_used_up_quota_are_recognised(error, full):
    """Both mean the same to whoever writes."""
    assert is_out_of_space(error) is full


@pytest.mark.parametrize("algorithm", ["sha1", "md5"])
def test_digests_are_those_of_the_bytes(tmp_path, algorithm):
    """A file's digest is that of its content."""
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    expected = hashlib.new(algorithm, b"abc" * 100_000).hexdigest()
    assert file_digest(tmp_path / "x", algorithm) == expected
