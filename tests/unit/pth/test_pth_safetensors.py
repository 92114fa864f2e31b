"""Safetensors files, read without their package: described, verified, loaded, and refused when they lie."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsafeCheckpointError
from linnaeus.pth import StoredTensor, sketch, sketch_there

STATE = {
    "a.weight": torch.randn(3, 4),
    "half": torch.randn(5).half(),
    "brain": torch.randn(2, 2).bfloat16(),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


@pytest.fixture
def path(tmp_path):
    """A file that the package safetensors wrote."""
    save_file(STATE, tmp_path / "x.safetensors", metadata={"from": "a test"})
    return tmp_path / "x.safetensors"


def test_a_file_of_the_package_is_read_the_same(path):
    """Names, shapes, types, texts and every byte."""
    found = pth.describe(path)
    assert (found.kind, found.about) == ("safetensors", {"from": "a test"})
    assert {t.name: (t.dtype, t.shape) for t in found.tensors} == {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in STATE.items()
    }
    loaded = pth.load(path)
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype is tensor.dtype
        for name, tensor in STATE.items()
    )
    report = pth.verify(path)
    assert (report.ok, report.checked, report.num_tensors) == (True, "structure", len(STATE))


def made(header, size=8, *, length=None):
    """Return the bytes of a file with this header and so many bytes of tensors."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + bytes(size)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        made({"w": ENTRY}, 7),
        made({"w": ENTRY}, 9),
        made({"w": {**ENTRY, "shape": [3]}}),
        made({"w": {**ENTRY, "shape": [-2]}}),
        made({"w": {**ENTRY, "shape": [2.0]}}),
        made({"w": {**ENTRY, "dtype": "F33"}}),
        made({"w": {**ENTRY, "data_offsets": [8, 0]}}),
        made({"w": ENTRY, "v": {**ENTRY, "data_offsets": [4, 12]}}, 12),
        made({"w": ENTRY, "v": {**ENTRY, "data_offsets": [12, 20]}}, 20),
        made({"w": 3}),
        made({"w": ENTRY, "__metadata__": [1]}),
        made(b'{"w": '),
        made({"w": ENTRY}, length=10_000),
        made({"w": ENTRY}, length=2**63),
    ],
)
def test_a_header_that_lies_is_damage(tmp_path, data):
    """Sizes, offsets and types that can't be true are refused, by describe, verify and load."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    for act in (pth.describe, pth.load, sketch):
        with pytest.raises(CorruptCheckpointError):
            act(path)
    assert not pth.verify(path).ok


def test_an_index_names_the_files_beside_it(tmp_path):
    """All tensors of all files are read; an index that leads elsewhere is refused."""
    save_file({"a": torch.ones(2)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    assert set(pth.load(index)) == {"a", "b"}
    assert pth.describe(index).keys == ("m-1.safetensors", "m-2.safetensors")
    for places in ({"a": "../m-1.safetensors"}, {"a": "/etc/passwd"}, {"a": "x.pth"}, {}, {"a": 3}):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(CorruptCheckpointError, match="no index of safetensors"):
            pth.load(index)


def test_an_index_decides_which_file_a_tensor_is_from(tmp_path):
    """A stale file that has a tensor too is not read for it; one that lacks its own is damage."""
    save_file({"a": torch.ones(2), "b": torch.full((3,), 9.0)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.zeros(3), "forgotten": torch.ones(1)}, tmp_path / "m-2.safetensors")
    save_file({"forgotten": torch.ones(1)}, tmp_path / "m-3.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    for order in (("b", "a"), ("a", "b")):
        places = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
        index.write_text(json.dumps({"weight_map": {name: places[name] for name in order}}))
        found = pth.load(index)
        assert set(found) == {"a", "b", "forgotten"}
        assert torch.equal(found["b"], torch.zeros(3))
    index.write_text(json.dumps({"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors"}}))
    with pytest.raises(CorruptCheckpointError, match=r"m-2.safetensors should have a and has not"):
        pth.load(index)
    places = {"a": "m-1.safetensors", "b": "m-2.safetensors", "forgotten ": "m-3.safetensors"}
    save_file({"forgotten ": torch.ones(1), "forgotten": torch.ones(1)}, tmp_path / "m-3.safetensors")
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CorruptCheckpointError, match="names neither"):
        pth.load(index)


def test_a_sketch_has_the_structure_and_reads_one_tensor_at_a_time(tmp_path):
    """Of a `.pth` of any writer: containers as they are, tensors left in the file, equal when read."""
    tied = torch.randn(4, 6)
    state = {
        "model": {"w": tied, "view": tied.t()[1:], "n": torch.tensor(3)},
        "epoch": 4,
        "list": [torch.ones(1)],
    }
    torch.save(state, tmp_path / "t.pth")
    pth.save(state, tmp_path / "l.pth")
    torch.save(state, tmp_path / "o.pth", _use_new_zipfile_serialization=False)
    for name in ("t.pth", "l.pth", "o.pth"):
        found = sketch(tmp_path / name)
        assert (found["epoch"], set(found["model"])) == (4, {"w", "view", "n"})
        assert found["model"]["view"].shape == (5, 4)
        for held, tensor in ((found["model"][n], state["model"][n]) for n in ("w", "view", "n")):
            assert isinstance(held, StoredTensor)
            read = held.read()
            assert read.is_meta if name == "o.pth" else torch.equal(read, tensor)


def test_a_sketch_of_an_unsafe_file_is_refused(tmp_path):
    """What asks for code is not looked into."""
    import pathlib

    torch.save({"model": {"w": torch.ones(1)}, "x": pathlib.PureWindowsPath("a")}, tmp_path / "x.pth")
    with pytest.raises(UnsafeCheckpointError):
        sketch(tmp_path / "x.pth")


def test_a_file_that_became_shorter_is_damage(tmp_path):
    """A tensor that is no longer there in full is an error, not garbage."""
    torch.save({"w": torch.ones(10_000)}, tmp_path / "x.pth")
    found = sketch(tmp_path / "x.pth")["w"]
    with (tmp_path / "x.pth").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(CheckpointInvalidError, match="shorter"):
        found.read()


@pytest.mark.parametrize("name", ["x.safetensors", "t.pth", "l.pth"])
def test_ranges_are_enough_for_a_sketch(path, name):
    """Where only ranges can be had, shapes are told and no tensor can be read."""
    torch.save(STATE, path.with_name("t.pth"))
    pth.save(STATE, path.with_name("l.pth"))
    data = path.with_name(name).read_bytes()
    found = sketch_there(name, len(data), lambda start, length: data[start : start + length])
    assert {n: t.shape for n, t in found.items()} == {n: tuple(t.shape) for n, t in STATE.items()}
    assert found["half"].read().is_meta
