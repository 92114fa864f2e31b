"""Room on the disk, taken before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.files import reserve


@pytest.fixture
def old_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A filesystem without reserving, as network ones are."""
    if os.geteuid() or shutil.which("mkfs.ext2") is None:
        pytest.skip("only root mounts a filesystem of its own making (ext2)")
    image, place = tmp_path / "image", tmp_path / "place"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    place.mkdir()
    subprocess.run(["mkfs.ext2", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this system mounts no image")
    yield place
    subprocess.run(["umount", place], check=True)


def opened(path: Path) -> int:
    """Return a new file's descriptor."""
    return os.open(path, os.O_CREAT | os.O_RDWR)


def test_a_file_gets_its_size_and_its_room(tmp_path: Path) -> None:
    """A longer one is cut first."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    descriptor = opened(tmp_path / "file")
    for size in (50_000, 80_000):
        reserve(descriptor, size)
        status = os.fstat(descriptor)
        assert status.st_size == size
        assert status.st_blocks * 512 >= size
    os.close(descriptor)


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """As the system says it."""
    descriptor = opened(tmp_path / "file")
    with pytest.raises(OSError, match=r"large|space") as caught:
        reserve(descriptor, 1 << 60)
    os.close(descriptor)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)


def test_where_room_can_t_be_reserved_nothing_is_written_for_it(old_filesystem: Path) -> None:
    """And a checkpoint is saved all the same."""
    descriptor = opened(old_filesystem / "file")
    reserve(descriptor, 1 << 20)
    assert os.fstat(descriptor).st_blocks == 0
    os.close(descriptor)
    linnaeus.save({"model": {"weight": torch.ones(1000)}}, old_filesystem / "a.pth")
    assert linnaeus.verify(old_filesystem / "a.pth").ok
