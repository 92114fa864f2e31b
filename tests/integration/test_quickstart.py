"""The reference trainer, as a person runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.runs import list_checkpoints

pytest.importorskip("sklearn", reason="scikit-learn ships the images")

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(directory: Path, *settings: str) -> list[str]:
    """Return the training command of the quickstart with its checkpoints in `directory`."""
    chosen = [f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}", *settings]
    options = [part for setting in chosen for part in ("--set", setting)]
    return [str(Path(sys.executable).with_name("linnaeus")), "train", "--config", str(QUICKSTART), *options]


def train(directory: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Train to the end."""
    return subprocess.run(
        command(directory, *settings), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def tensors_of(path: Path) -> list[torch.Tensor]:
    """Return model and optimizer tensors, in order."""
    saved = linnaeus.load(path)
    states = saved["optimizer"]["state"].values()
    return [*saved["model"].values(), *(value for state in states for value in state.values())]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart_learns_the_digits(tmp_path: Path) -> None:
    """The quickstart as it is shipped ends above 95 % on held-out digits and keeps its best checkpoint."""
    ended = train(tmp_path)
    assert ended.returncode == 0, ended.stderr
    best = linnaeus.describe(tmp_path / "best.pth")
    assert best.about["metrics"]["accuracy"] > 0.95
    assert best.about["epoch"] <= 20


@pytest.mark.slow
def test_killed_quickstart_ends_bit_identical(tmp_path: Path) -> None:
    """A run that is killed in the middle of an epoch and started again ends as one that never was."""
    settings = (
        "TRAIN.EPOCHS=2",
        "DATA.SHIFT=1",
        "SCHEDULE.CHECKPOINT.INTERVAL_STEPS=7",
        "TRAIN.EMA_DECAY=0.9",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, *settings).returncode == 0
    with subprocess.Popen(command(killed, *settings), env=ENVIRONMENT, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None and all(found.step < 21 for found in list_checkpoints(killed)):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert not (killed / "checkpoint_epoch_2.pth").exists()
    resumed = train(killed, *settings)
    assert resumed.returncode == 0, resumed.stderr
    pairs = zip(
        tensors_of(whole / "checkpoint_epoch_2.pth"),
        tensors_of(killed / "checkpoint_epoch_2.pth"),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_goes_on_from_pretrained_weights(tmp_path: Path) -> None:
    """MODEL.PRETRAINED begins from the named file's weights and records their lineage in the checkpoint."""
    few = ("TRAIN.EPOCHS=1", "TRAIN.LR=1.0e-9", "TRAIN.WEIGHT_DECAY=0")
    assert train(tmp_path / "a", "TRAIN.EPOCHS=1").returncode == 0
    source = tmp_path / "a" / "checkpoint_epoch_1.pth"
    assert train(tmp_path / "b", *few, f"MODEL.PRETRAINED={source}").returncode == 0
    tuned = tmp_path / "b" / "checkpoint_epoch_1.pth"
    before, after = linnaeus.load(source)["model"], linnaeus.load(tuned)["model"]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    assert linnaeus.describe(tuned).about["lineage"]["pretrained"]["sources"]


def test_a_missing_checkpoint_to_resume_is_an_error(tmp_path: Path) -> None:
    """TRAIN.RESUME that can't be had ends the command with "not found" instead of starting afresh."""
    ended = train(tmp_path, "TRAIN.RESUME=nowhere.pth", f"ENV.INPUT.CACHE_DIR={tmp_path}")
    assert ended.returncode == 3
    assert "nowhere.pth" in ended.stderr
    assert not list(tmp_path.glob("*.pth"))
