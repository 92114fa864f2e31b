"""What a run goes on from: damaged checkpoints, named ones, those of other runs and of earlier versions."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    ResumeMismatchError,
)
from support.directories import visible_files
from support.small_run import SmallRun, config, train
from support.trees import same


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the run saves; not there yet."""
    return tmp_path / "runs" / "one" / "checkpoints"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The state at the end of a run that nobody stopped."""
    run = SmallRun()
    train(config(tmp_path_factory.mktemp("whole") / "run"), run)
    return run.state()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "flipped": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    "foreign": lambda data: b"<html>no</html>",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_costs_only_what_came_after_the_one_before(
    directory: Path, uninterrupted: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is passed over with its reason and moved aside; the run ends with the same bits."""
    cfg = config(directory, INTERVAL_STEPS=1)
    train(cfg, SmallRun(), stop_after=8)
    newest = directory / "checkpoint_epoch_1_step_8.pth"
    damaged = DAMAGE[kind](newest.read_bytes())
    newest.write_bytes(damaged)
    run = SmallRun(seed=99)
    with caplog.at_level(logging.INFO):
        train(cfg, run)
    assert "passed over checkpoint_epoch_1_step_8.pth" in caplog.text
    assert "resumed from" in caplog.text
    assert (directory / f"{newest.name}.invalid").read_bytes() == damaged
    assert same(run.state(), uninterrupted)


def test_when_all_are_damaged_no_start_succeeds(directory: Path) -> None:
    """Every start is an error and changes nothing, until someone decides."""
    cfg = config(directory)
    train(cfg, SmallRun(), stop_after=8)
    for entry in directory.glob("checkpoint*"):
        entry.write_bytes(entry.read_bytes()[:100])
    before = visible_files(directory)
    for _ in range(2):
        with pytest.raises(CheckpointInvalidError, match="none of this run's checkpoints"):
            linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume()
        assert visible_files(directory) == before


def source_run(tmp_path: Path) -> Path:
    """Return a checkpoint of another, longer run."""
    other = tmp_path / "other"
    train(config(other, EPOCHS=2), SmallRun())
    return other / "checkpoint_epoch_2.pth"


@pytest.mark.parametrize("auto", [True, False])
def test_resume_names_a_checkpoint_by_path_or_by_name(directory: Path, tmp_path: Path, auto: bool) -> None:
    """TRAIN.RESUME is honoured although the run has no checkpoint of its own, by path and from the cache."""
    source = source_run(tmp_path)
    (tmp_path / "cache").mkdir()
    os.link(source, tmp_path / "cache" / "named.pth")
    cfg_of = {"absolute": str(source), "bare": "named.pth"}
    for resume in cfg_of.values():
        run = SmallRun(seed=99)
        cfg = linnaeus.load_config(
            None,
            [
                f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}", f"ENV.INPUT.CACHE_DIR={tmp_path / 'cache'}",
                f"TRAIN.RESUME={resume}", f"TRAIN.AUTO_RESUME={auto}",
            ],
        )  # fmt: skip
        ckpt = linnaeus.CheckpointManager(cfg, **run.parts())
        progress = ckpt.resume()
        assert (progress.epoch, progress.step, progress.resumed_from) in [
            (2, 10, source),
            (2, 10, tmp_path / "cache" / "named.pth"),
        ]
        assert same(dict(run.model.state_dict()), dict(linnaeus.load(source)["model"]))


def test_a_named_one_that_cannot_be_had_is_an_error(directory: Path, tmp_path: Path) -> None:
    """Missing, damaged or of another shape: never a fresh start, whatever the run has of its own."""
    train(config(directory), SmallRun(), stop_after=6)
    source = source_run(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        linnaeus.CheckpointManager(config(directory, RESUME="gone.pth"), **SmallRun().parts()).resume()
    with pytest.raises(CheckpointNotFoundError):
        linnaeus.CheckpointManager(config(directory, RESUME="/gone/x.pth"), **SmallRun().parts()).resume()
    wide = SmallRun(width=9)
    with pytest.raises(ResumeMismatchError, match=r"0\.weight: \(8, 4\) in the checkpoint, \(9, 4\) here"):
        linnaeus.CheckpointManager(config(directory, RESUME=str(source)), **wide.parts()).resume()
    source.write_bytes(source.read_bytes()[:-10])
    with pytest.raises(CorruptCheckpointError):
        linnaeus.CheckpointManager(config(directory, RESUME=str(source)), **SmallRun().parts()).resume()


def test_a_relaunched_run_that_began_from_another_goes_on_with_its_own(
    directory: Path, tmp_path: Path
) -> None:
    """The same command again continues, also when the source is gone or has come further meanwhile."""
    source = source_run(tmp_path)
    cfg = config(directory, RESUME=str(source), EPOCHS=4, INTERVAL_STEPS=1)
    whole = SmallRun()
    train(config(tmp_path / "whole", RESUME=str(source), EPOCHS=4), whole)
    expected = whole.state()
    train(cfg, SmallRun(), stop_after=12)
    source.unlink()
    run = SmallRun(seed=99)
    train(cfg, run, stop_after=14)
    again = SmallRun(seed=98)
    ckpt = linnaeus.CheckpointManager(cfg, **again.parts())
    assert ckpt.resume().step == 14
    assert ckpt.lineage["resumed_from"] == str(source)
    again = SmallRun(seed=98)
    train(cfg, again)
    assert same(again.state(), expected)


def test_the_runs_own_newer_one_wins_over_the_named_one(directory: Path, tmp_path: Path) -> None:
    """A run that has come further than the named checkpoint is not thrown back."""
    source = source_run(tmp_path)
    train(config(directory, INTERVAL_STEPS=1), SmallRun(), stop_after=12)
    progress = linnaeus.CheckpointManager(
        config(directory, RESUME=str(source)), **SmallRun().parts()
    ).resume()
    assert progress.step == 12


def earlier_files(directory: Path, *, latest: bool = True) -> SmallRun:
    """Write what an earlier linnaeus left: epoch 3, and a newer state in a regular file latest.pth."""
    import argparse

    directory.mkdir(parents=True)
    run = SmallRun()
    for number, batch in enumerate(run.loader):
        run.learn(batch)
        state = {
            "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
            "lr_scheduler": run.lr_scheduler.state_dict(), "epoch": 3 + number // 3,
            "iteration": 100 + number,
            "training_progress": {"global_step": 100 + number}, "config": argparse.Namespace(LR=0.1),
            "metrics_tracker": {"best": 0.5}, "wandb_run_id": None,
        }  # fmt: skip
        if number == 2:
            torch.save(state, directory / "ckpt_epoch_3.pth")
            expected = copy.deepcopy(run)
        if number == 4 and latest:
            torch.save(state, directory / "latest.pth")
            expected = run
    return expected


@pytest.mark.parametrize("latest", [True, False])
def test_files_of_earlier_versions_are_resumed(
    directory: Path, latest: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Model, optimizer, schedule and progress are taken over; what they don't hold is told."""
    expected = earlier_files(directory, latest=latest)
    run = SmallRun(seed=99)
    ckpt = linnaeus.CheckpointManager(config(directory), **run.parts())
    with caplog.at_level(logging.INFO):
        progress = ckpt.resume()
    assert (progress.epoch, progress.step) == ((5, 104) if latest else (4, 102))
    for name in ("model", "optimizer", "lr_scheduler"):
        assert same(getattr(run, name).state_dict(), getattr(expected, name).state_dict())
    assert "start fresh" in caplog.text
    assert "rng" in caplog.text


def test_a_regular_file_latest_is_never_replaced(directory: Path) -> None:
    """What an earlier version wrote under the link's name keeps its bytes while the run goes on."""
    earlier_files(directory)
    content = (directory / "latest.pth").read_bytes()
    ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=9, KEEP_LAST_N=2), **SmallRun().parts())
    ckpt.resume()
    for loss in (3.0, 2.0, 1.0):
        ckpt.step()
        ckpt.end_epoch({"loss": loss})
    ckpt.wait()
    assert not (directory / "latest.pth").is_symlink()
    assert (directory / "latest.pth").read_bytes() == content
    assert str((directory / "best.pth").readlink()) == "checkpoint_epoch_8.pth"


def test_what_the_run_was_resumed_from_is_not_pruned(directory: Path) -> None:
    """The checkpoint that this process started from stays as long as it runs."""
    train(config(directory), SmallRun(), stop_after=6)
    ckpt = linnaeus.CheckpointManager(
        config(directory, EPOCHS=9, KEEP_LAST_N=1, KEEP_TOP_N=0), **SmallRun().parts()
    )
    ckpt.resume()
    for _ in range(3):
        ckpt.end_epoch()
    ckpt.wait()
    assert visible_files(directory) == ["checkpoint_epoch_1.pth", "checkpoint_epoch_4.pth"]


def test_the_optimizer_or_the_schedule_may_be_left_fresh(directory: Path) -> None:
    """RESUME_SKIP_OPTIMIZER and PRESERVE_CHECKPOINT_SCHEDULE=false leave parts as the new run made them."""
    train(config(directory), SmallRun(), stop_after=6)
    saved = linnaeus.load(directory / "latest.pth")
    for settings, left in (
        ({"RESUME_SKIP_OPTIMIZER": True}, {"optimizer", "lr_scheduler", "scaler"}),
        ({"PRESERVE_CHECKPOINT_SCHEDULE": False}, {"lr_scheduler"}),
    ):
        run = SmallRun(seed=99)
        before = copy.deepcopy(
            {name: getattr(run, name).state_dict() for name in ("optimizer", "lr_scheduler", "scaler")}
        )
        linnaeus.CheckpointManager(config(directory, **settings), **run.parts()).resume()
        for name, state in before.items():
            assert same(getattr(run, name).state_dict(), state) == (name in left)
        assert same(dict(run.model.state_dict()), dict(saved["model"]))
