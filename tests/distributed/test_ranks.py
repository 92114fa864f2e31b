"""Runs of several real ranks: saved together, resumed by as many, by more, by fewer, and in other ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus import pth
from support.rank_return import NEWEST
from support.rank_run import RankRun
from support.torchrun import on_ranks, torchrun

_LAST = "checkpoint_epoch_2.pth"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the runs "ddp" and "fsdp", which four ranks trained, were cut and resumed."""
    directory = tmp_path_factory.mktemp("four")
    torchrun(4, directory, "resumes_exactly:ddp", "resumes_exactly:fsdp")
    return directory


def test_what_ranks_wrote_is_an_ordinary_file(of_four: Path) -> None:
    """Plain torch reads what four sharded ranks wrote: the gathered state, bit for bit."""
    path = of_four / "fsdp" / _LAST
    loaded = torch.load(path, weights_only=True, mmap=True)
    whole = torch.load(of_four / "fsdp_whole.pt", weights_only=True)
    for name, tensor in loaded["model"].items():
        assert torch.equal(tensor, whole[f"{name}."]), name
        for key, value in loaded["optimizer"]["state"][name].items():
            assert torch.equal(value, whole[f"{name}.{key}"]), (name, key)
    assert pth.verify(path).error is None
    assert len(loaded["rng"]["streams"]["torch"]) == 4
    assert sorted(entry.name for entry in path.parent.glob(".*tmp")) == []


def test_every_placement_is_kept(tmp_path: Path) -> None:
    """However tensors are distributed, the file holds them whole, and each rank gets its part back."""
    on_ranks(4, tmp_path, "keeps_every_placement")


def test_two_ranks_take_over_what_four_wrote(of_four: Path) -> None:
    """Data-parallel and sharded runs take over each other's files, on another number of ranks."""
    takes = [f"takes_over:{way}:{name}/{_LAST}" for way in ("fsdp", "ddp") for name in ("ddp", "fsdp")]
    on_ranks(2, of_four, *takes)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_one_process_takes_over_what_four_wrote(
    of_four: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A single process goes on from it, and is told what can't be the same."""
    run = RankRun("none", seed=5)
    ckpt = run.manager(tmp_path / "run", RESUME=str(of_four / name / _LAST))
    assert ckpt.resume().step == 12
    whole = torch.load(of_four / f"{name}_whole.pt", weights_only=True)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in run.whole().items())
    assert "4 ranks saved what 1 resume: random streams begin anew" in caplog.text
    ckpt.close()


@pytest.mark.parametrize("writer", ["linnaeus", "torch"])
def test_ranks_take_over_what_one_process_wrote(tmp_path: Path, writer: str) -> None:
    """Two ranks, sharded or data-parallel, go on from the file of one process, also one of torch."""
    run = RankRun("none")
    run.train(tmp_path / "one")
    path = tmp_path / "one" / _LAST
    if writer == "torch":
        plain: Any = linnaeus.load(path, mmap=False)
        torch.save(plain, path)
    torch.save(run.whole(), tmp_path / "one_whole.pt")
    on_ranks(2, tmp_path, *(f"takes_over:{way}:one/{_LAST}" for way in ("fsdp", "ddp")))


def test_a_node_that_lost_its_disk_goes_on_too(tmp_path: Path) -> None:
    """Whichever node still has the newest valid checkpoint, all get it and go on bit for bit."""
    layouts = ["none+all", "all+none", "older+all", "all+bad", "bad+all", "none+none", "none+bad", "bad+none"]
    on_ranks(4, tmp_path, ":".join(["comes_back:ddp", *layouts]))
    files = [(tmp_path / layout / f"node{n}" / NEWEST).read_bytes() for layout in layouts[:5] for n in (0, 1)]
    assert len(set(files)) == 1
    assert [path.name for path in (tmp_path / "bad+all" / "node0").glob("*.replaced")] == [
        f"{NEWEST}.replaced"
    ]
    assert not list(tmp_path.glob("*/node*/.*.tmp"))


def test_shards_of_a_lost_node_come_back(tmp_path: Path) -> None:
    """Sharded ranks too take their parts from the file that another node had."""
    on_ranks(4, tmp_path, "comes_back:fsdp:none+all")


def test_one_rank_with_a_sharded_model(tmp_path: Path) -> None:
    """A launcher that starts one rank is no special case: it saves either form, and resumes exactly."""
    for name, module in (("pth", "support.rank_process"), ("sharded", "support.shard_process")):
        (tmp_path / name).mkdir()
        on_ranks(1, tmp_path / name, "resumes_exactly:fsdp", module=module)
