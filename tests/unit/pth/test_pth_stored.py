"""Tensors left in a file: read later, of the file that was looked into, or not at all."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError
from linnaeus.pth import sketch


@pytest.fixture(params=["torch", "linnaeus", "safetensors"])
def path(request, tmp_path):
    """A file of each kind with one tensor."""
    state = {"w": torch.arange(1000.0)}
    if request.param == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"
    (torch if request.param == "torch" else pth).save(state, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_a_file_renamed_over_another_does_not_mix_with_it(path):
    """What is read is of the file that was looked into, not of one that took its name."""
    held = sketch(path)["w"]
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)
    assert torch.equal(held.read(), torch.arange(1000.0))


def test_a_file_written_to_in_place_is_an_error(path):
    """Bytes that changed under a plan are refused, and no garbage is returned."""
    held = sketch(path)["w"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2 - 8 : len(data) // 2] = b"\0" * 8
    with path.open("r+b") as file:
        file.write(data)
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # a clock may be too coarse to tell
    with pytest.raises(CheckpointInvalidError, match="changed or replaced"):
        held.read()


def num_open():
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_outlives_its_tensors(path):
    """A sketch holds its file open, and closes it with its last tensor."""
    before = num_open()
    held = sketch(path)
    assert num_open() == before + 1
    del held
    assert num_open() == before


def damage_header(path, record):
    """Write over the first byte of a record's own header."""
    with zipfile.ZipFile(path) as archive:
        header = next(i.header_offset for i in archive.infolist() if i.filename.endswith(record))
    with path.open("r+b") as file:
        file.seek(header)
        file.write(b"X")


def test_the_header_of_a_record_is_checked_when_it_is_read(tmp_path):
    """A header that contradicts the directory is an error for its own tensor, and not read for another."""
    path = tmp_path / "x.pth"
    torch.save({"used": torch.ones(100), "left": torch.ones(100)}, path)
    damage_header(path, "data/1")
    found = sketch(path)
    assert torch.equal(found["used"].read(), torch.ones(100))
    with pytest.raises(CorruptCheckpointError, match="header is damaged"):
        found["left"].read()
    with pytest.raises(CorruptCheckpointError, match="header is damaged"):
        pth.describe(path)
