"""`linnaeus prune` and `linnaeus pin`: what goes, what stays, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.runs import list_checkpoints
from support.program import linnaeus as program


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six epochs, all kept, the second the best."""
    directory = tmp_path / "run"
    directory.mkdir()
    for epoch, loss in enumerate((3.0, 1.0, 2.0, float("nan"), 5.0, 4.0), 1):
        about = {"epoch": epoch, "step": epoch * 5, "step_in_epoch": 0, "metrics": {"loss": loss}}
        linnaeus.save(
            {"model": {"w": torch.ones(2)}}, directory / f"checkpoint_epoch_{epoch}.pth", about=about
        )
    (directory / "latest.pth").symlink_to("checkpoint_epoch_1.pth")
    return directory


def epochs(directory: Path) -> list[int]:
    """Return what is there."""
    return [found.epoch for found in list_checkpoints(directory)]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Path, tmp_path: Path) -> None:
    """Each file with keep or remove, and why."""
    ended = program("prune", "run", "--dry-run", "--set", "SCHEDULE.CHECKPOINT.KEEP_LAST_N=2", cwd=tmp_path)
    assert ended.code == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in ended.out.splitlines()[1:-1]}
    assert lines["checkpoint_epoch_6.pth"].startswith("keep")
    assert lines["checkpoint_epoch_6.pth"].endswith("the newest, among the last 2")
    assert lines["checkpoint_epoch_2.pth"].endswith("number 1 by loss")
    assert lines["checkpoint_epoch_1.pth"].startswith("remove")
    assert lines["checkpoint_epoch_1.pth"].endswith("no rule keeps it")
    assert "would be removed of 6" in ended.out
    assert epochs(run) == [6, 5, 4, 3, 2, 1]


def test_pruning_removes_what_it_said_and_heeds_pins(run: Path, tmp_path: Path) -> None:
    """A pinned file stays until its pin is taken away, wherever the directory is; the links are set right."""
    assert program("pin", "run/checkpoint_epoch_1.pth", cwd=tmp_path).code == 0
    run = run.rename(tmp_path / "moved")
    ended = program("prune", "moved", "--json", "--set", "SCHEDULE.CHECKPOINT.KEEP_LAST_N=1", cwd=tmp_path)
    told = {entry["name"]: entry["reasons"] for entry in json.loads(ended.out)["checkpoints"]}
    assert told["checkpoint_epoch_1.pth"] == ["pinned"]
    assert epochs(run) == [6, 2, 1]
    assert str((run / "latest.pth").readlink()) == "checkpoint_epoch_6.pth"
    assert str((run / "best.pth").readlink()) == "checkpoint_epoch_2.pth"
    assert program("pin", "--remove", "moved/checkpoint_epoch_1.pth", cwd=tmp_path).code == 0
    program("prune", "moved", "--set", "SCHEDULE.CHECKPOINT.KEEP_LAST_N=1", cwd=tmp_path)
    assert epochs(run) == [6, 2]


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """A directory or file that is missing ends with 3, and pins nothing."""
    assert program("prune", "nowhere", cwd=tmp_path).code == 3
    (tmp_path / "a.pth").write_bytes(b"x")
    assert program("pin", "a.pth", "b.pth", cwd=tmp_path).code == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]
