"""The reference trainer on several ranks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus import pth
from linnaeus.models import build_model
from linnaeus.resuming import choose_newest
from support.processes import wait_until
from support.torchrun import on_ranks, ranks, torchrun

pytestmark = pytest.mark.slow
_CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def test_trains_and_goes_on_in_another_way(tmp_path: Path) -> None:
    """Two sharded ranks train; two data-parallel ones go on from there, and know the same on both."""
    torchrun(2, tmp_path, "trains:fsdp:1", "trains:ddp:2")
    first, second = (json.loads((tmp_path / f"done_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.checkpoint.epoch == 2
    assert pth.describe(choice.path).about["resumed_from"].startswith("checkpoint_epoch_1")


def test_a_signal_on_one_rank_stops_all_at_one_step(tmp_path: Path) -> None:
    """SIGTERM reaches one rank alone: all save the same step together, and end with its status."""
    with ranks(2, tmp_path, "trains:ddp:1000") as started:
        wait_until(lambda: (tmp_path / "run").is_dir() and any((tmp_path / "run").glob("*.pth")), seconds=60)
        os.kill(int((tmp_path / "pid_1").read_text()), signal.SIGTERM)
        assert [process.wait(timeout=60) for process in started] == [128 + signal.SIGTERM] * 2
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.passed_over == ()
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_pretrained_weights_are_fetched_once(tmp_path: Path, parallel: str) -> None:
    """All ranks start from the same pretrained weights by one download; one report of it is written."""
    cfg = linnaeus.load_config(_CONFIG)
    (tmp_path / "bucket" / "modelZoo").mkdir(parents=True)
    base = build_model(cfg).state_dict()
    linnaeus.save({"model": base}, tmp_path / "bucket" / "modelZoo" / "base.pth")
    on_ranks(2, tmp_path, f"trains_from:{parallel}:1:base.pth")
    noted = [json.loads((tmp_path / f"noted_{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["fetched"] for one in noted] == [["base.pth"], []]
    assert [one["written"] for one in noted] == [[str(tmp_path / "run")], []]
    assert all(set(one["coverage"].values()) == {1.0} for one in noted)
    trained: Any = linnaeus.load(tmp_path / "run" / "checkpoint_epoch_1.pth")
    assert all(torch.allclose(trained["model"][name], base[name], atol=1e-6) for name in base)
    report = json.loads((tmp_path / "run" / "load_report.json").read_text())
    assert [source["identifier"] for source in report["sources"]] == ["base.pth"]
    assert [path for path in (tmp_path / "run").iterdir() if path.name[0] == "."] == []


def test_pretrained_weights_that_are_nowhere_stop_all(tmp_path: Path) -> None:
    """No rank trains on from random weights when another could not get them."""
    (tmp_path / "bucket" / "modelZoo").mkdir(parents=True)
    with pytest.raises(AssertionError, match="CheckpointNotFoundError"):
        on_ranks(2, tmp_path, "trains_from:ddp:1:base.pth")
    assert not list((tmp_path / "run").glob("*.pth"))
