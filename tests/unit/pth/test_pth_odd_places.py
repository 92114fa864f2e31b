"""Places that are no ordinary file, and files that become others while they are read or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointInvalidError, SaveError
from linnaeus.pth import _load, mapped_file
from linnaeus.pth._build import build


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    """Opening one waits for a writer, for ever; a pipe in a directory would stop every listing of it."""
    os.mkfifo(tmp_path / "x.pth")
    for read in (linnaeus.load, linnaeus.describe):
        with pytest.raises(CheckpointInvalidError, match="no regular file"):
            read(tmp_path / "x.pth")
    assert not linnaeus.verify(tmp_path / "x.pth").ok


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    """A rename over /dev/null would break the machine for everybody."""
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(SaveError, match="no regular file"):
        linnaeus.save({}, tmp_path / "x.pth")
    with pytest.raises(SaveError, match="it is a directory"):
        linnaeus.save({}, tmp_path)
    with pytest.raises(SaveError, match="it is a directory"):
        linnaeus.save({}, "")


def test_a_file_in_place_of_the_directory_is_a_save_error(tmp_path: Path) -> None:
    """Also where nothing of the temporary file can be looked for."""
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="Not a directory"):
        linnaeus.save({}, tmp_path / "file" / "x.pth")


@pytest.mark.parametrize("write", [linnaeus.save, torch.save])
@pytest.mark.parametrize("mmap", [True, False])
def test_names_of_any_bytes_are_read(tmp_path: Path, write: Any, *, mmap: bool) -> None:
    """A name need not be UTF-8."""
    path = tmp_path / os.fsdecode(b"a\xff\xfe\n b.pth")
    write({"w": torch.arange(3)}, tmp_path / "a.pth")
    (tmp_path / "a.pth").replace(path)
    assert linnaeus.load(path, mmap=mmap)["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_is_one_file_although_another_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, mmap: bool
) -> None:
    """`latest.pth` may come to name another checkpoint between the description and the bytes."""
    path = tmp_path / "latest.pth"
    linnaeus.save({"w": torch.zeros(5000)}, path)
    found = _load.own_document

    def then_replaced(*arguments: Any) -> Any:
        document = found(*arguments)
        linnaeus.save({"longer": "x" * 9999, "w": torch.ones(5000)}, path)
        return document

    monkeypatch.setattr(_load, "own_document", then_replaced)
    assert torch.equal(linnaeus.load(path, mmap=mmap)["w"], torch.zeros(5000))


def test_an_error_of_the_filled_run_is_not_the_files(tmp_path: Path) -> None:
    """A system error met while the file is open stays what it is."""
    linnaeus.save({"w": torch.zeros(5)}, tmp_path / "a.pth")
    with pytest.raises(ConnectionError), mapped_file(tmp_path / "a.pth"):
        raise ConnectionError


@pytest.mark.parametrize("length", [10, 100_000])
def test_memory_that_is_resized_while_saving_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Its place in the file is of the old size; reading on would go beyond the memory."""
    from linnaeus.pth import _archiver

    written = _archiver.Parts.write
    tensor = torch.ones(length)

    def resized_before(self: Any, path: Path, **named: Any) -> None:
        tensor.untyped_storage().resize_(0)
        written(self, path, **named)

    monkeypatch.setattr(_archiver.Parts, "write", resized_before)
    with pytest.raises(SaveError, match="resized while it was saved"):
        linnaeus.save({"w": tensor}, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_tensor_of_an_odd_layout_is_refused_by_name(tmp_path: Path) -> None:
    """Torch has layouts of its own for some processors; a safe file has not."""
    with pytest.raises(SaveError, match=r"model\.w is a tensor of layout torch\._mkldnn"):
        linnaeus.save({"model": {"w": torch.ones(3).to_mkldnn()}}, tmp_path / "a.pth")


@pytest.mark.parametrize("place", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_not_the_files_fault(tmp_path: Path, place: str) -> None:
    """A good file is never called damaged because its reader has no such device."""
    linnaeus.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises((RuntimeError, AssertionError)) as raised:
        linnaeus.load(tmp_path / "a.pth", map_location=place)
    assert not isinstance(raised.value, CheckpointInvalidError)
    with pytest.raises(TypeError, match="can't be a int"):
        linnaeus.load(tmp_path / "a.pth", map_location=0)


def test_tensors_are_made_where_their_storages_are() -> None:
    """Storages of another device than the CPU, as after map_location, make tensors of that device."""
    storage = torch.UntypedStorage(12, device="meta")
    made = build({"$tensor": 0}, [[0, "float32", [3], [1], 0]], lambda _: storage)
    assert (made.device.type, made.shape) == ("meta", (3,))
