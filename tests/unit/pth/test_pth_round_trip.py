"""What is saved comes back: through ours and through torch's own reader, and described as torch has it."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linnaeus
from linnaeus.errors import (
    UnsupportedFormatError,
)
from support.pickles import archive, tensor_pickle
from support.trees import same

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def state() -> dict[str, Any]:
    """Return a state with everything that a run saves, views and shared storages included."""
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(6, 3)).sum().backward()
    optimizer.step()
    base = torch.arange(12, dtype=torch.float32)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "dtypes": {str(dtype): torch.arange(4).to(dtype) for dtype in DTYPES},
        "base": base,
        "view": base.view(3, 4).t()[1:, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(5),
        "conjugated": torch.tensor([1 + 2j]).conj(),
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "plain": [1, -(2**40), 2.5, float("inf"), "ü\u0000", b"\xff", True, None, (1, (2,)), {3}, 1 + 2j],
        ("a", 1): torch.Size([1, 2]),
        7: {"dtype": torch.bfloat16, "device": torch.device("cpu")},
    }


def without_newer_types() -> dict[str, Any]:
    """Return the state less what torch can't write in the old format."""
    older = [
        dtype
        for dtype in DTYPES
        if not any(part in str(dtype) for part in ("float8", "uint16", "uint32", "uint64"))
    ]
    return state() | {"dtypes": {str(dtype): torch.arange(4).to(dtype) for dtype in older}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for the file under test."""
    return tmp_path / "x.pth"


def torch_load(path: Path, *, mmap: bool = False) -> Any:
    """Load as someone without linnaeus would."""
    return torch.load(path, weights_only=True, mmap=mmap)


@pytest.mark.parametrize("mmap", [True, False])
def test_ours_and_torchs_readers_agree_on_what_ours_wrote(path: Path, mmap: bool) -> None:
    """A saved state is read back bit for bit, by linnaeus and by torch alone."""
    linnaeus.save(state(), path)
    assert same(linnaeus.load(path, mmap=mmap), state())
    assert same(torch_load(path, mmap=mmap), state())


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_what_torch_wrote_is_loaded_as_torch_loads_it(path: Path, new_format: bool, mmap: bool) -> None:
    """Both formats of torch are loaded, verified and described."""
    torch.save(
        state() if new_format else without_newer_types(), path, _use_new_zipfile_serialization=new_format
    )
    assert same(linnaeus.load(path, mmap=mmap), torch_load(path))
    report = linnaeus.verify(path)
    assert report.ok
    assert report.checked == ("content" if new_format else "structure")
    assert report.kind == ("torch.save" if new_format else "torch.save, format before 1.6")


def test_zipfile_and_unzip_find_our_file_whole(path: Path) -> None:
    """Every record carries a true CRC-32, the added one too, so any zip tool proves the file."""
    linnaeus.save(state(), path)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        infos = {info.filename.split("/", 1)[1]: info for info in file.infolist()}
        assert all(info.CRC for info in infos.values() if info.file_size)
        assert "linnaeus.json" in infos
    if shutil.which("unzip"):
        told = subprocess.run(["unzip", "-t", str(path)], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout
        assert "No errors detected" in told.stdout


@pytest.mark.parametrize("write", ["ours", "torch", "old"])
def test_a_description_says_what_torch_says(path: Path, write: str) -> None:
    """Names, shapes, dtypes, strides, offsets and sizes are those of the loaded tensors."""
    if write == "ours":
        linnaeus.save(state(), path)
    else:
        torch.save(
            state() if write == "torch" else without_newer_types(),
            path,
            _use_new_zipfile_serialization=write == "torch",
        )
    described = {tensor.name: tensor for tensor in linnaeus.describe(path).tensors}
    loaded = dict(tensors_of(torch_load(path)))
    assert described.keys() == loaded.keys()
    for name, tensor in loaded.items():
        told = described[name]
        assert (told.shape, f"torch.{told.dtype}") == (tuple(tensor.shape), str(tensor.dtype)), name
        assert (told.stride, told.offset) == (tensor.stride(), tensor.storage_offset()), name
        assert told.size_bytes == tensor.numel() * tensor.element_size(), name
    assert linnaeus.describe(path).keys == tuple(map(str, state()))


def tensors_of(node: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    """Return every tensor with its dotted name, by plain recursion."""
    if isinstance(node, torch.Tensor):
        return [(path, node)]
    if isinstance(node, dict):
        pairs = list(node.items())
    else:
        pairs = list(enumerate(node)) if isinstance(node, (list, tuple)) else []
    return [
        found for key, value in pairs for found in tensors_of(value, f"{path}.{key}" if path else str(key))
    ]


def test_records_named_in_a_description_hold_the_tensors_bytes(path: Path) -> None:
    """A reader of linnaeus.json needs no pickle to get at a tensor."""
    linnaeus.save({"w": torch.arange(4, dtype=torch.int32)}, path)
    (told,) = linnaeus.describe(path).tensors
    with zipfile.ZipFile(path) as file:
        prefix = file.namelist()[0].split("/")[0]
        assert file.read(f"{prefix}/{told.record}") == np.arange(4, dtype="<i4").tobytes()


def test_about_is_told_again_and_is_strict_json(path: Path) -> None:
    """What a writer says of a run comes back; NaN and infinities are spelled as texts."""
    about = {
        "epoch": 3,
        "metrics": {"loss": float("nan"), "top": float("-inf")},
        "config": {"A": [1, None, True]},
    }
    linnaeus.save({"w": torch.ones(1)}, path, about=about)
    told = linnaeus.describe(path)
    assert told.about == about | {"metrics": {"loss": "NaN", "top": "-Infinity"}}
    assert told.written["format"] == 1
    assert told.written["torch"].startswith(torch.__version__.split("+")[0])
    assert told.kind == "linnaeus"


def test_shared_storages_stay_shared_and_are_stored_once(path: Path) -> None:
    """Views of one storage are views of one storage again."""
    base = torch.arange(1000.0)
    linnaeus.save({"a": base, "b": base[10:20], "c": base.view(10, 100).t()}, path)
    assert path.stat().st_size < 2 * 4000
    loaded = linnaeus.load(path)
    loaded["a"][10] = -1
    assert loaded["b"][0] == -1
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == 1


def test_metadata_and_order_of_a_state_dict_survive(path: Path) -> None:
    """A module's state dict keeps its order and its _metadata."""
    mine = torch.nn.BatchNorm1d(2).state_dict()
    linnaeus.save(mine, path)
    loaded = linnaeus.load(path)
    assert isinstance(loaded, OrderedDict)
    assert loaded._metadata == mine._metadata  # type: ignore[attr-defined]
    assert list(loaded) == list(mine)


@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "meta"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_rarer_tensors_round_trip(path: Path, kind: str) -> None:
    """Sparse and meta tensors are saved, verified and loaded too."""
    layouts = {"sparse_coo": torch.eye(3).to_sparse, "sparse_csr": torch.eye(3).to_sparse_csr}
    tensor = torch.empty(2, 3, device="meta") if kind == "meta" else layouts[kind]()
    linnaeus.save({"t": tensor}, path)
    assert linnaeus.verify(path).ok
    loaded = linnaeus.load(path)["t"]
    assert (loaded.layout, loaded.shape, loaded.device) == (tensor.layout, tensor.shape, tensor.device)
    if kind != "meta":
        assert torch.equal(loaded.to_dense(), torch.eye(3))


def test_map_location_is_obeyed(path: Path) -> None:
    """Tensors go where map_location says, as for torch.load."""
    linnaeus.save({"w": torch.ones(2)}, path)
    assert linnaeus.load(path, map_location="meta")["w"].device.type == "meta"
    seen: list[str] = []
    linnaeus.load(path, map_location=lambda storage, location: seen.append(location) or storage)
    assert seen == ["cpu"]


def test_writing_to_a_loaded_tensor_does_not_write_to_the_file(path: Path) -> None:
    """A mapped file is never changed through the tensors loaded from it."""
    linnaeus.save({"w": torch.ones(2)}, path)
    linnaeus.load(path)["w"].zero_()
    assert torch.equal(linnaeus.load(path)["w"], torch.ones(2))
    assert linnaeus.verify(path).ok


def test_a_container_that_holds_itself_is_saved(path: Path) -> None:
    """Cycles are no trouble, since torch's reader knows them."""
    mine: list[Any] = [1]
    mine.append(mine)
    linnaeus.save({"a": mine}, path)
    loaded = linnaeus.load(path)["a"]
    assert loaded[1] is loaded


def test_switching_torchs_checksums_off_does_not_switch_ours_off(path: Path) -> None:
    """Our files always prove themselves, and torch's option is left as the user set it."""
    torch.serialization.set_crc32_options(False)
    try:
        linnaeus.save(state(), path)
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    assert linnaeus.verify(path).checked == "content"
    assert zipfile.ZipFile(path).testzip() is None


def test_a_file_without_checksums_is_verified_as_far_as_it_goes(path: Path) -> None:
    """Files written with checksums off load, and the report says that only their structure was checked."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    report = linnaeus.verify(path)
    assert (report.ok, report.checked) == (True, "structure")
    assert same(linnaeus.load(path), state())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickle_protocol_4_is_told_apart_from_danger(path: Path) -> None:
    """A protocol that torch can't read safely is unsupported, not unsafe, and is described all the same."""
    torch.save({"w": torch.ones(2)}, path, pickle_protocol=4)
    assert [tensor.name for tensor in linnaeus.describe(path).tensors] == ["w"]
    with pytest.raises(UnsupportedFormatError, match="protocol"):
        linnaeus.load(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_data_only_classes_of_older_code_become_plain_values(
    path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    """Namespaces, yacs configs, numpy numbers and paths load as dicts, numbers and texts, at any depth."""

    class CfgNode(dict):  # type: ignore[type-arg]
        """A config node as yacs has it: a dict with attributes of its own."""

        def __init__(self, values: dict[str, Any]) -> None:
            super().__init__(values)
            self.__dict__["__immutable__"] = True

    module = types.ModuleType("yacs.config")
    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    shared = [np.float64(0.5)]
    cyclic: list[Any] = [argparse.Namespace(a=1)]
    cyclic.append(cyclic)
    torch.save(
        {
            "model": OrderedDict(w=torch.ones(2)),
            "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(x=[np.int64(3)])),
            "config": CfgNode({"MODEL": CfgNode({"NAME": "sm"}), "LIST": [1]}),
            "best": np.float32(1.5),
            "flags": (np.bool_(True), [argparse.Namespace(b=2)]),
            "where": Path("/data/x"),
            "dtype": np.dtype("float32"),
            "shared": [shared, shared],
            "cyclic": cyclic,
        },
        path,
        _use_new_zipfile_serialization=new_format,
    )
    assert linnaeus.verify(path).ok
    loaded = linnaeus.load(path)
    assert loaded["args"] == {"lr": 0.1, "inner": {"x": [3]}}
    assert loaded["config"] == {"MODEL": {"NAME": "sm"}, "LIST": [1]}
    assert (loaded["best"], loaded["flags"]) == (1.5, (True, [{"b": 2}]))
    assert (loaded["where"], loaded["dtype"]) == ("/data/x", "f4")
    assert loaded["shared"][0] is loaded["shared"][1]
    assert loaded["cyclic"][0] == {"a": 1}
    assert loaded["cyclic"][1] is loaded["cyclic"]
    assert torch.equal(loaded["model"]["w"], torch.ones(2))
    plain_types(loaded)


def plain_types(node: Any, seen: set[int] | None = None) -> None:
    """Check that nothing but plain values and tensors is in a tree."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    assert type(node) in (dict, OrderedDict, list, tuple, str, int, float, bool, torch.Tensor), type(node)
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        plain_types(part, seen)


def test_parameters_of_the_earliest_versions_are_described(path: Path) -> None:
    """A parameter written as a call of its class, its state set afterwards, is a tensor like any other."""
    inner = tensor_pickle()[2:-1]
    old = (
        b"\x80\x02}U\x01wctorch.nn.parameter\nParameter\n"
        + inner
        + b"\x88\x86R\x88\x89ccollections\nOrderedDict\n)R\x87bs."
    )
    archive(path, old, {"data/0": torch.ones(2).numpy().tobytes()})
    assert [(t.name, t.shape) for t in linnaeus.describe(path).tensors] == [("w", (2,))]
    assert torch.equal(linnaeus.load(path)["w"], torch.ones(2))


def test_a_name_in_an_old_character_set_is_read(path: Path) -> None:
    """An archive whose folder name is not ASCII and not marked as UTF-8 is whole all the same."""
    linnaeus.save({"w": torch.ones(2)}, path)
    archive(path, tensor_pickle(), {"data/0": torch.ones(2).numpy().tobytes()}, prefix="mod?le")
    path.write_bytes(path.read_bytes().replace(b"mod?le", b"mod\xe8le"))
    assert linnaeus.verify(path).ok
    assert torch.equal(linnaeus.load(path), torch.ones(2))


def test_reports_and_descriptions_are_plain_json(path: Path) -> None:
    """What commands print with --json is made of JSON values and tells good from bad."""
    import json

    linnaeus.save(state(), path)
    good = json.loads(json.dumps(linnaeus.verify(path).to_plain()))
    assert (good["ok"], good["problem"], good["num_tensors"]) == (
        True,
        None,
        len(linnaeus.describe(path).tensors),
    )
    told = json.loads(json.dumps(linnaeus.describe(path).to_plain()))
    assert told["num_elements"] == sum(tensor.numel() for _, tensor in tensors_of(state()))
    path.write_bytes(path.read_bytes()[:-5])
    bad = json.loads(json.dumps(linnaeus.verify(path).to_plain()))
    assert (bad["ok"], "damaged" in bad["problem"]) == (False, True)


def test_tensors_in_an_attribute_of_an_ordered_dict_are_listed_where_they_stand(tmp_path: Path) -> None:
    """What is first met in an attribute has its name there, in the description and in the pickle alike."""
    shared = [torch.ones(1)]
    ordered: Any = OrderedDict(a=torch.zeros(1))
    ordered._metadata = {"x": shared}
    linnaeus.save([ordered, shared], tmp_path / "a.pth")
    assert linnaeus.verify(tmp_path / "a.pth").ok
    assert [info.name for info in linnaeus.describe(tmp_path / "a.pth").tensors] == ["0.a", "0._metadata.x.0"]
    loaded = linnaeus.load(tmp_path / "a.pth")
    assert loaded[0]._metadata["x"] is loaded[1]
