"""Temporary names that tell whose they are, and sweeping what dead processes left."""

import os
import subprocess
import time

import pytest

from linnaeus.files import _owner, sweep_abandoned, temporary_name
from support.directories import names

LONG_AGO = time.time() - 2 * _owner._ABANDONED_AFTER_SECONDS


@pytest.fixture
def dead_pid():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def name_of(*, machine=None, pid=None, started=None):
    """Return a temporary's name as a process would have given it."""
    pid = os.getpid() if pid is None else pid
    started = _owner._started(os.getpid()) if started is None else started
    return f".x.pth.{machine or _owner._machine()}-{pid}-{started}-0a1b2c3d.tmp"


def test_names_are_fresh_hidden_and_in_the_same_directory(tmp_path):
    """Two temporaries of one file never collide, and no listing of checkpoints shows them."""
    one, two = temporary_name(tmp_path / "x.pth"), temporary_name(tmp_path / "x.pth")
    assert one != two
    assert one.parent == two.parent == tmp_path
    assert one.name.startswith(".")
    assert one.suffix == ".tmp"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "日" * 85, "a" + "日" * 84, "🌱" * 63])
def test_the_longest_names_have_temporaries_too(tmp_path, name):
    """A name as long as the system allows, in bytes of any width, gets a temporary that can be made."""
    temporary = temporary_name(tmp_path / name)
    temporary.touch()
    assert _owner._TAGGED.match(temporary.name)


def test_what_a_dead_process_left_is_swept(tmp_path, dead_pid):
    """Files, whole directories and links of a process that is gone are removed, and named."""
    directory = tmp_path / name_of(pid=dead_pid, started=1)
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "part").write_bytes(b"half")
    file = tmp_path / name_of(pid=dead_pid, started=2)
    file.touch()
    link = tmp_path / name_of(pid=dead_pid, started=3)
    link.symlink_to(tmp_path)
    assert set(sweep_abandoned(tmp_path)) == {directory, file, link}
    assert names(tmp_path) == []
    assert tmp_path.is_dir()


def test_what_a_running_process_writes_stays(tmp_path):
    """This process's own temporaries are never swept, however old."""
    own = temporary_name(tmp_path / "x.pth")
    own.touch()
    os.utime(own, (LONG_AGO, LONG_AGO))
    assert sweep_abandoned(tmp_path) == []
    assert own.exists()


def test_a_zombie_counts_as_gone(tmp_path):
    """A process that was killed but not yet waited for holds nothing."""
    process = subprocess.Popen(["sleep", "60"])
    started = _owner._started(process.pid)
    left = tmp_path / name_of(pid=process.pid, started=started)
    left.touch()
    assert sweep_abandoned(tmp_path) == []
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert sweep_abandoned(tmp_path) == [left]
    process.wait()


def test_a_process_number_that_was_given_again_counts_as_gone(tmp_path):
    """Another process with the dead one's number protects nothing."""
    left = tmp_path / name_of(started=_owner._started(os.getpid()) - 100_000)
    left.touch()
    assert sweep_abandoned(tmp_path) == [left]


def test_another_machine_is_given_a_day(tmp_path, dead_pid):
    """In a shared directory, what other machines write is swept only when nothing touched it for a day."""
    fresh = tmp_path / name_of(machine="00000000", pid=dead_pid, started=1)
    old = tmp_path / name_of(machine="00000000", pid=os.getpid(), started=2)
    for path in (fresh, old):
        path.touch()
    os.utime(old, (LONG_AGO, LONG_AGO))
    assert sweep_abandoned(tmp_path) == [old]


@pytest.mark.parametrize(
    "name",
    [
        "x.pth",
        ".hidden",
        ".x.pth.tmp",
        "x.pth.00000000-1-1-00000000.tmp",
        ".x.pth.00000000-1-1-00000000.tmp.pth",
        ".x.pth.00000000-one-1-00000000.tmp",
    ],
)
def test_what_was_not_made_here_is_never_swept(tmp_path, name):
    """Only names that carry the tag are touched."""
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    assert sweep_abandoned(tmp_path) == []


def test_a_directory_that_is_not_there_has_nothing_to_sweep(tmp_path):
    """Sweeping may come before anything was made."""
    assert sweep_abandoned(tmp_path / "none") == []


def test_a_clock_that_is_set_makes_nobody_dead(tmp_path, monkeypatch):
    """A machine that woke up or asked a time server still runs the same processes."""
    import psutil

    own = temporary_name(tmp_path / "x.pth")
    own.touch()
    told = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + 60)
    assert sweep_abandoned(tmp_path) == []


def test_processes_that_are_hidden_from_others_are_alive(tmp_path, monkeypatch, dead_pid):
    """Where users can't see each other's processes, a signal's refusal still tells that one is there."""

    def refused(pid, _):
        raise PermissionError(pid)

    left = tmp_path / name_of(pid=dead_pid, started=1)
    left.touch()
    monkeypatch.setattr(os, "kill", refused)
    assert sweep_abandoned(tmp_path) == []
    monkeypatch.undo()
    assert sweep_abandoned(tmp_path) == [left]
