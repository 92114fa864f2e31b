"""Blocks are only given on when a file is provably nobody's, and its name is gone in any case."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.files import Recycled, recycle
from linnaeus.pth import save
from support.leases import require_leases

CONTENT = bytes(range(256)) * 300


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A file that this process made; skips where the filesystem grants no leases at all."""
    path = tmp_path / "old.pth"
    path.write_bytes(CONTENT)
    require_leases(path)
    return path


def names(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(entry.name for entry in directory.iterdir())


def test_a_file_that_is_nobodys_is_given_with_its_blocks(made: Path) -> None:
    """Its name is gone, and the same inode stands under a temporary name of this process."""
    inode = made.stat().st_ino
    given = recycle(made, inode)
    assert isinstance(given, Recycled)
    assert names(made.parent) == [given.path.name]
    assert given.path.name.startswith(".old.pth.")
    assert given.path.name.endswith(".tmp")
    assert given.path.stat().st_ino == inode


def test_the_next_save_is_written_over_its_blocks_and_is_whole(made: Path) -> None:
    """The new checkpoint has the old inode, its own bytes and its own length, larger or smaller."""
    for elements in (5, 100_000, 50):
        inode = made.stat().st_ino
        given = recycle(made, inode)
        assert given is not None
        save({"w": torch.arange(elements)}, made, recycled=given)
        assert names(made.parent) == ["old.pth"]
        assert made.stat().st_ino == inode
        assert linnaeus.verify(made).ok
        assert torch.equal(linnaeus.load(made, mmap=False)["w"], torch.arange(elements))


@pytest.mark.parametrize("how", ["linked", "opened"])
def test_what_somebody_took_while_it_waited_is_not_written_over(made: Path, how: str, tmp_path: Path) -> None:
    """A hidden file that a backup has linked or opened keeps its bytes; the save takes new blocks."""
    given = recycle(made, made.stat().st_ino)
    assert given is not None
    taken = tmp_path / "backup"
    if how == "linked":
        os.link(given.path, taken)
    with (taken if how == "linked" else given.path).open("rb") as reader:
        save({"w": torch.ones(9)}, made, recycled=given)
        assert reader.read() == CONTENT
    assert linnaeus.verify(made).ok
    assert not given.path.exists()


def test_a_save_that_is_refused_leaves_nothing_behind(made: Path) -> None:
    """What can't be saved costs the recycled file too, not a hidden name that stays."""
    given = recycle(made, made.stat().st_ino)
    with pytest.raises(linnaeus.errors.SaveError):
        save({"w": object()}, made, recycled=given)
    assert names(made.parent) == []


def gone_and_not_given(path: Path, inode: int) -> None:
    """Check that a file is removed and not given."""
    others = [name for name in names(path.parent) if name != path.name]
    assert recycle(path, inode) is None
    assert names(path.parent) == others


def test_a_file_of_another_inode_is_only_removed(made: Path) -> None:
    """Somebody replaced it; whose it is, nobody knows."""
    gone_and_not_given(made, made.stat().st_ino + 1)


def test_a_file_with_a_second_name_is_only_removed(made: Path) -> None:
    """The other name keeps its bytes."""
    other = made.with_name("other.pth")
    os.link(made, other)
    gone_and_not_given(made, made.stat().st_ino)
    assert other.read_bytes() == CONTENT


def test_a_link_is_only_removed(made: Path) -> None:
    """What a symbolic link points to is not touched."""
    link = made.with_name("latest.pth")
    link.symlink_to(made.name)
    gone_and_not_given(link, made.stat().st_ino)
    assert made.read_bytes() == CONTENT


def test_a_file_that_is_gone_already_is_fine(tmp_path: Path) -> None:
    """Another process pruned it."""
    assert recycle(tmp_path / "none.pth", 1) is None


READER = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR if "w" in sys.argv[2] else os.O_RDONLY)
if "m" in sys.argv[2]:
    memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    os.close(descriptor)
    read = lambda: memory[:]
else:
    read = lambda: os.pread(descriptor, 1 << 20, 0)
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(str(read() == bytes(range(256)) * 300))
"""


@pytest.fixture
def reader() -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Return how to start a process that has a file open ("r", "w") or only mapped ("m")."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path, how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["r", "w", "m", "mw"])
def test_a_reader_keeps_its_own_bytes_whatever_is_saved_next(
    made: Path, reader: Callable[[Path, str], subprocess.Popen[str]], how: str
) -> None:
    """A process that has it open or mapped, even after closing it, is not written under."""
    process = reader(made, how)
    inode = made.stat().st_ino
    given = recycle(made, inode)
    assert names(made.parent) == []
    save({"w": torch.ones(40_000)}, made, recycled=given)
    assert given is None
    assert made.stat().st_ino != inode
    assert process.communicate("go\n")[0] == "True"


@pytest.mark.parametrize("how", ["torch", "ours", "mmap"])
def test_what_this_process_has_mapped_is_not_written_over(tmp_path: Path, how: str) -> None:
    """Tensors loaded from a checkpoint before keep their values when it is pruned and the next is saved."""
    path = tmp_path / "old.pth"
    save({"w": torch.arange(50_000)}, path)
    held: Any
    if how == "mmap":
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        before = held[:]
    else:
        held = torch.load(path, mmap=True) if how == "torch" else linnaeus.load(path)
    given = recycle(path, path.stat().st_ino)
    save({"w": torch.zeros(50_000)}, path, recycled=given)
    assert given is None
    assert held[:] == before if how == "mmap" else torch.equal(held["w"], torch.arange(50_000))


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINVAL, errno.EACCES, errno.ENOLCK, errno.ENOTSUP])
def test_a_filesystem_without_leases_gets_a_plain_removal(
    made: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Without the proof nothing is given, and no error comes of it."""

    def refuse(descriptor: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_SETLEASE:
            raise OSError(error, os.strerror(error))
        return 0

    monkeypatch.setattr("linnaeus.files._recycle.fcntl.fcntl", refuse)
    gone_and_not_given(made, made.stat().st_ino)


def test_a_system_without_leases_gets_a_plain_removal(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems than Linux have none."""
    monkeypatch.delattr("linnaeus.files._recycle.fcntl.F_SETLEASE")
    gone_and_not_given(made, made.stat().st_ino)


def test_somebody_who_opens_it_during_the_proof_makes_it_fail_harmlessly(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's signal to the holder of the lease ends no process, and the file is not given."""
    real, opened = fcntl.fcntl, []

    def open_then_go_on(descriptor: int, command: int, argument: Any = 0) -> Any:
        result = real(descriptor, command, argument)
        if command == fcntl.F_SETLEASE and argument == fcntl.F_WRLCK:
            (hidden,) = made.parent.iterdir()
            with pytest.raises(BlockingIOError):
                os.open(hidden, os.O_RDONLY | os.O_NONBLOCK)
            opened.append(hidden)
        return result

    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL
    monkeypatch.setattr("linnaeus.files._recycle.fcntl.fcntl", open_then_go_on)
    gone_and_not_given(made, made.stat().st_ino)
    assert len(opened) == 1
