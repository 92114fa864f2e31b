"""Directories of shards to one file and back: every bit kept, and little memory taken whatever the size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import linnaeus
from linnaeus import pth
from linnaeus.converting import convert
from linnaeus.errors import CorruptCheckpointError, SaveError
from support.program import linnaeus as run
from support.torchrun import environment
from support.trees import same


def everything() -> dict[str, Any]:
    """Return a state with every kind of dense tensor, plain value and sharing that a directory can hold."""
    flat = torch.arange(40.0)
    weight = torch.nn.Parameter(torch.randn(30, 20))
    model = OrderedDict(weight=weight, tied=weight, view=flat[3:9], turned=flat[4:16].view(3, 4).t())
    model |= {f"of.{d}".replace("torch.", ""): torch.ones(2, 3).to(d) for d in (torch.bfloat16, torch.int8)}
    model |= {"bool": torch.tensor([True, False]), "complex": torch.randn(3, dtype=torch.complex64)}
    model |= {"none": torch.empty(0, 4), "scalar": torch.tensor(7), "meta": torch.empty(3, device="meta")}
    model["last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return {
        "model": model,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "m": torch.randn(30, 20)}},
            "param_groups": [{}],
        },
        "values": [1, 2.5, float("nan"), -0.0, None, "text", b"bytes", True, 1 << 70, {"deep": (1, 2)}],
        "inside": (torch.ones(2), [torch.zeros(1), {"x": 3}]),
        3: "a key",
        "epoch": 4,
    }


def test_there_and_back_every_bit_is_kept(tmp_path: Path) -> None:
    """Values, types, strides and sharing; the file that comes back describes the same."""
    torch.manual_seed(0)
    first, shards, again = tmp_path / "a.pth", tmp_path / "b.sharded", tmp_path / "c.pth"
    linnaeus.save(everything(), first, about={"epoch": 4, "run": "r"})
    convert(first, shards)
    done = convert(shards, again)
    before, between, after = (linnaeus.load(path) for path in (first, shards, again))
    for found in (between, after):
        strip(before), strip(found)
        assert same(found, before)
        assert found["model"]["weight"] is found["model"]["tied"]
        assert found["model"]["last"].stride() == before["model"]["last"].stride()
        assert (
            found["model"]["view"].untyped_storage()._cdata
            == found["model"]["turned"].untyped_storage()._cdata
        )
    assert [t.to_plain() for t in linnaeus.describe(again).tensors] == [
        t.to_plain() for t in linnaeus.describe(first).tensors
    ]
    assert linnaeus.describe(again).about == {"epoch": 4, "run": "r"}
    assert done.num_tensors == len(linnaeus.describe(first).tensors)
    assert all(pth.verify(path).checked == "content" for path in (shards, again))


def strip(state: dict[str, Any]) -> None:
    """Leave out what can't be compared by its bytes."""
    assert state["model"].pop("meta", torch.empty(3, device="meta")).is_meta


def test_torch_reads_what_convert_made(tmp_path: Path) -> None:
    """Plain torch.distributed.checkpoint loads a converted file into a state of the same names."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.BatchNorm1d(30))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 40)).sum().backward()
    optimizer.step()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2}, tmp_path / "a.pth"
    )
    convert(tmp_path / "a.pth", tmp_path / "a.sharded")
    target = {
        "model": {name: torch.zeros_like(value) for name, value in model.state_dict().items()},
        "optimizer": torch.load(tmp_path / "a.pth", weights_only=True)["optimizer"],
        "epoch": 0,
    }
    for state in target["optimizer"]["state"].values():
        state.update({name: torch.zeros_like(value) for name, value in state.items()})
    with pytest.warns(UserWarning, match="single process"):
        dcp.load(target, checkpoint_id=tmp_path / "a.sharded")
    assert target["epoch"] == 2
    assert same(dict(target["model"]), dict(model.state_dict()))
    assert same(target["optimizer"]["state"], optimizer.state_dict()["state"])


def test_what_torch_wrote_is_converted(tmp_path: Path) -> None:
    """A directory that plain torch.distributed.checkpoint wrote becomes a file, and a directory of ours."""
    state = {
        "model": {"w": torch.randn(40, 3), "b": torch.randn(5).to(torch.bfloat16)},
        "epoch": 3,
        "names": ["x"],
    }
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(state, checkpoint_id=tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "a.pth")
    convert(tmp_path / "plain", tmp_path / "b.sharded")
    for name in ("plain", "a.pth", "b.sharded"):
        found = linnaeus.load(tmp_path / name)
        assert {key: found[key] for key in ("epoch", "names")} == {"epoch": 3, "names": ["x"]}
        assert same(dict(found["model"]), state["model"]), name
    assert torch.load(tmp_path / "a.pth", weights_only=True)["epoch"] == 3
    assert pth.verify(tmp_path / "b.sharded").kind == "linnaeus, sharded"


def test_a_damaged_directory_is_not_converted(tmp_path: Path) -> None:
    """Damaged bytes don't get checksums that call them whole."""
    pth.save_sharded({"w": torch.ones(1000)}, tmp_path / "a.sharded")
    shard = next((tmp_path / "a.sharded").glob("*.distcp"))
    data = bytearray(shard.read_bytes())
    data[data.index(torch.ones(4).numpy().tobytes())] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptCheckpointError):
        convert(tmp_path / "a.sharded", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("odd", [torch.eye(3).to_sparse(), [1, 2]])
def test_what_a_directory_cannot_hold_is_refused(tmp_path: Path, odd: Any) -> None:
    """Sparse tensors, and what is no dict: nothing is left behind."""
    linnaeus.save({"odd": odd} if isinstance(odd, torch.Tensor) else odd, tmp_path / "a.pth")
    with pytest.raises(SaveError, match="directory of shards"):
        convert(tmp_path / "a.pth", tmp_path / "a.sharded")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_the_command_converts_and_tells(tmp_path: Path) -> None:
    """`linnaeus convert` by the suffixes, refusing to replace without --force."""
    linnaeus.save({"model": {"w": torch.ones(3)}}, tmp_path / "a.pth")
    assert run("convert", "a.pth", "a.sharded", cwd=tmp_path).code == 0
    assert run("convert", "a.pth", "a.sharded", cwd=tmp_path).code == 1
    assert run("convert", "a.pth", "a.sharded", "--force", cwd=tmp_path).code == 0
    assert run("convert", "a.sharded", "a.safetensors", cwd=tmp_path).code == 0
    assert run("convert", "a.safetensors", "b.sharded", cwd=tmp_path).code == 0
    assert torch.equal(linnaeus.load(tmp_path / "b.sharded")["w"], torch.ones(3))
    assert "a.sharded" in run("ls", ".", cwd=tmp_path).out


_MEASURED = """
import json, sys
from pathlib import Path
import torch, torch.distributed.checkpoint.filesystem
from linnaeus.converting import convert
from linnaeus import pth
small = Path(sys.argv[1]) / "small"
pth.save({"w": torch.ones(8)}, small.with_suffix(".pth"))
convert(small.with_suffix(".pth"), small.with_suffix(".sharded"), replace=True)
convert(small.with_suffix(".sharded"), small.with_suffix(".pth"), replace=True)
def held(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = held("VmRSS")
convert(Path(sys.argv[2]), Path(sys.argv[3]))
print(json.dumps(held("VmHWM") - before))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 1 GB, most of it one tensor; and one of many."""
    directory = tmp_path_factory.mktemp("large")
    stream = torch.Generator().manual_seed(1)
    state = {"one": torch.rand(200 << 20 >> 10, 1024, generator=stream)}
    state |= {f"many{n}": torch.rand(1 << 20, generator=stream) for n in range(60)}
    linnaeus.save({"model": state}, directory / "a.pth")
    return directory


def test_memory_is_bounded_whatever_the_size(large: Path, tmp_path: Path) -> None:
    """1 GB there and back takes less than 256 MB more than next to nothing does; every bit is kept."""
    grown = {}
    for source, target in (("a.pth", "b.sharded"), ("b.sharded", "c.pth"), ("c.pth", "d.sharded")):
        command = [sys.executable, "-c", _MEASURED, str(tmp_path), str(large / source), str(large / target)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=160)
        assert done.returncode == 0, done.stderr
        grown[source, target] = json.loads(done.stdout)
    assert max(grown.values()) < 256 << 20, grown
    first, last = pth.load(large / "a.pth")["model"], pth.load(large / "c.pth")["model"]
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert pth.verify(large / "d.sharded").ok
