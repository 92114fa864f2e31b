"""Directories of shards by themselves: what they hold, how boxes are found in them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

import linnaeus
from linnaeus import pth
from linnaeus.errors import CorruptCheckpointError, SaveError, UnsupportedFormatError
from linnaeus.pth._dcp_metadata import read_index
from linnaeus.pth._parted import PartedTensor, blocks
from linnaeus.pth._shard_plan import boxes
from support.trees import same

_SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


def elements(whole: torch.Tensor, start: Any, size: Any) -> list[int]:
    """Return the elements of a box, in order."""
    place = tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))
    return [int(value) for value in whole[place].reshape(-1)]


@given(_SHAPES, st.data())
def test_a_run_of_elements_is_its_boxes(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Boxes of a run of elements hold just these, in their order."""
    whole = torch.arange(math.prod(shape)).view(shape)
    last = data.draw(st.integers(0, whole.numel()))
    first = data.draw(st.integers(0, last))
    found = [one for start, size in boxes(shape, first, last) for one in elements(whole, start, size)]
    assert found == list(range(first, last))


@given(_SHAPES, st.integers(8, 200))
def test_blocks_are_all_of_a_tensor(shape: tuple[int, ...], most_bytes: int) -> None:
    """Blocks hold each element once, in order, and none is larger than it may be."""
    whole = torch.arange(math.prod(shape)).view(shape)
    found = [elements(whole, start, size) for start, size in blocks(shape, 8, most_bytes)]
    assert [one for block in found for one in block] == list(range(whole.numel()))
    assert all(len(block) * 8 <= most_bytes for block in found)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_box_of_any_parts_is_read(rows: int, columns: int, data: st.DataObject) -> None:
    """However a tensor was cut by whoever wrote it, any box of it is what it is in the whole."""
    whole = torch.randn(rows, columns)
    with tempfile.TemporaryDirectory() as name:
        split_rows = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
        split_columns = sorted({0, columns, *data.draw(st.lists(st.integers(0, columns), max_size=3))})
        write_parts(Path(name), whole, split_rows, split_columns)
        parted = PartedTensor.of(Path(name), read_index(Path(name)).tensors["w"])
        assert torch.equal(parted.read(), whole)
        first = [data.draw(st.integers(0, n - 1)) for n in whole.shape]
        size = [data.draw(st.integers(1, n - f)) for n, f in zip(whole.shape, first, strict=True)]
        target = torch.empty(size[1], size[0]).t() if data.draw(st.booleans()) else torch.empty(size)
        parted.read_box(first, target)
        assert torch.equal(target, whole[first[0] : first[0] + size[0], first[1] : first[1] + size[1]])


def write_parts(directory: Path, whole: torch.Tensor, rows: list[int], columns: list[int]) -> None:
    """Write a tensor in boxes, each as torch would, turned in memory now and then."""
    chunks, places = [], {}
    with (directory / "__0_0.distcp").open("wb") as file:
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                box, start = whole[top:bottom, left:right], file.tell()
                torch.save(box.t().contiguous().t() if (top + left) % 2 else box.clone(), file)
                chunks.append(ChunkStorageMetadata(torch.Size((top, left)), box.shape))
                index = MetadataIndex("w", (top, left))
                places[index] = _StorageInfo("__0_0.distcp", start, file.tell() - start)
    kept = TensorStorageMetadata(TensorProperties(whole.dtype), whole.shape, chunks)
    (directory / ".metadata").write_bytes(pickle.dumps(Metadata({"w": kept}, {"w": ("w",)}, places)))


def test_the_commit_file_is_plain_json_with_a_digest_of_each_file(tmp_path: Path) -> None:
    """What it tells can be checked by anybody: sizes and SHA-256 of all files beside it."""
    path = tmp_path / "a.sharded"
    pth.save_sharded({"w": torch.ones(3), "n": 1}, path, about={"epoch": 2})
    told = json.loads((path / "linnaeus.json").read_text())
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "linnaeus.json"}
    digests = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()}
    assert told["files"] == digests
    assert (told["format"], told["about"], told["names"]) == (1, {"epoch": 2}, ["w"])
    assert list(told)[-1] == "digest"


def test_every_cut_and_change_of_the_commit_file_is_found(tmp_path: Path) -> None:
    """Cut anywhere or with any byte changed, the directory is no checkpoint."""
    path = tmp_path / "checkpoint_epoch_1.sharded"
    pth.save_sharded({"w": torch.ones(3)}, path, about={"epoch": 1})
    commit = path / "linnaeus.json"
    data = commit.read_bytes()
    for at in range(0, len(data), 11):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            commit.write_bytes(damaged)
            with pytest.raises(CorruptCheckpointError):
                pth.brief(path)
            assert not pth.verify(path, content=False).ok
    commit.write_bytes(data)
    assert pth.verify(path).ok


def test_a_mixture_of_two_directories_is_no_checkpoint(tmp_path: Path) -> None:
    """The commit file of another save does not fit, though all files have the right names and sizes."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        pth.save_sharded({"w": torch.full((300,), value)}, tmp_path / f"{name}.sharded")
    shards = [next((tmp_path / name).glob("*.distcp")) for name in ("a.sharded", "b.sharded")]
    assert shards[0].name != shards[1].name  # so that not even that happens by itself
    shutil.copy(*shards)
    assert pth.verify(tmp_path / "b.sharded", content=False).ok
    assert not pth.verify(tmp_path / "b.sharded").ok


def test_other_directories_are_no_checkpoints(tmp_path: Path) -> None:
    """A directory of other things is told as that, and one that was never finished as that."""
    (tmp_path / "some").mkdir()
    (tmp_path / "half.sharded").mkdir()
    with pytest.raises(UnsupportedFormatError, match="no checkpoint"):
        linnaeus.describe(tmp_path / "some")
    with pytest.raises(CorruptCheckpointError, match="never finished"):
        linnaeus.describe(tmp_path / "half.sharded")


def test_a_directory_replaces_no_file(tmp_path: Path) -> None:
    """What is no directory is left alone."""
    (tmp_path / "a.sharded").write_text("mine")
    with pytest.raises(SaveError, match="no directory"):
        pth.save_sharded({"w": torch.ones(1)}, tmp_path / "a.sharded")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sharded"]


@pytest.mark.parametrize("writer", ["linnaeus", "torch"])
def test_pretrained_weights_come_from_a_directory(tmp_path: Path, writer: str) -> None:
    """MODEL.PRETRAINED names a directory; every weight arrives, and diff finds nothing different."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    content = {"model": model.state_dict(), "epoch": 3}
    path = tmp_path / "weights"
    if writer == "torch":
        with pytest.warns(UserWarning, match="single process"):
            dcp.save(content, checkpoint_id=path)
    else:
        path = tmp_path / "weights.sharded"
        pth.save_sharded(content, path)
    cfg = linnaeus.Config.from_plain({"MODEL": {"PRETRAINED": str(path)}})
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    report = linnaeus.load_pretrained(cfg, other)
    assert report.coverage == 1.0
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    linnaeus.save(content, tmp_path / "same.pth")
    compared = pth.compare(path, tmp_path / "same.pth")
    assert (compared.only_a, compared.only_b, compared.tensors) == ((), (), ())


def test_a_load_onto_another_device_is_placed(tmp_path: Path) -> None:
    """`map_location` holds for directories too."""
    pth.save_sharded({"w": torch.ones(3), "inside": [torch.ones(1)]}, tmp_path / "a.sharded")
    found = linnaeus.load(tmp_path / "a.sharded", map_location="meta")
    assert found["w"].is_meta
    assert found["inside"][0].is_meta
