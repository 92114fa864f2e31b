"""Sharded checkpoints of several real ranks: written each its own, resumed by any number of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from linnaeus import pth
from support.rank_run import RankRun
from support.torchrun import on_ranks, torchrun

_LAST = "checkpoint_epoch_2.sharded"
_MODULE = "support.shard_process"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the runs "ddp" and "fsdp", which four ranks trained, were cut and resumed."""
    directory = tmp_path_factory.mktemp("four")
    torchrun(4, directory, "resumes_exactly:ddp", "resumes_exactly:fsdp", module=_MODULE)
    return directory


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_torch_reads_what_ranks_wrote(of_four: Path, tmp_path: Path, name: str) -> None:
    """Every rank wrote a file of its own; torch's own converter finds the gathered state, bit for bit."""
    path = of_four / name / _LAST
    assert {entry.name[:4] for entry in path.glob("*.distcp")} == {"__0_", "__1_", "__2_", "__3_"}
    dcp_to_torch_save(path, tmp_path / "whole.pth")
    found = torch.load(tmp_path / "whole.pth", weights_only=True)
    whole = torch.load(of_four / f"{name}_whole.pt", weights_only=True)
    for key, tensor in found["model"].items():
        assert torch.equal(tensor, whole[f"{key}."]), key
        for part, value in found["optimizer"]["state"][key].items():
            assert torch.equal(value, whole[f"{key}.{part}"]), (key, part)
    assert pth.verify(path).error is None
    assert sorted(entry.name for entry in path.parent.glob(".*tmp")) == []


def test_every_placement_is_kept(tmp_path: Path) -> None:
    """However tensors are distributed, the directory holds them whole, and each rank gets its part back."""
    on_ranks(4, tmp_path, "keeps_every_placement", module=_MODULE)


def test_a_rank_reads_only_its_own_part(tmp_path: Path) -> None:
    """Of 512 MB in four parts a rank holds one while it resumes."""
    on_ranks(4, tmp_path, "reads_its_own_part:512", module=_MODULE)


def test_a_rank_saves_without_a_copy(tmp_path: Path) -> None:
    """Beside training each rank writes from where its part is; little of it is held a second time."""
    on_ranks(2, tmp_path, "holds_no_copy", module=_MODULE)


def test_two_ranks_take_over_what_four_wrote(of_four: Path) -> None:
    """Data-parallel and sharded runs take over each other's directories, on another number of ranks."""
    takes = [f"takes_over:{way}:{name}/{_LAST}" for way in ("fsdp", "ddp") for name in ("ddp", "fsdp")]
    on_ranks(2, of_four, *takes, module=_MODULE)


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


def test_ranks_take_over_what_one_process_wrote(tmp_path: Path) -> None:
    """Four ranks, sharded or data-parallel, go on from the directory of one process."""
    run = RankRun("none")
    run.train(tmp_path / "one", FORMAT="sharded")
    torch.save(run.whole(), tmp_path / "one_whole.pt")
    on_ranks(4, tmp_path, *(f"takes_over:{way}:one/{_LAST}" for way in ("fsdp", "ddp")), module=_MODULE)
