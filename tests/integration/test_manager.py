"""The one object that a training loop holds: saving, keeping, linking and going on, on real files."""

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
from linnaeus.config import LinnaeusDeprecationWarning
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    RemoteAuthError,
    ResumeMismatchError,
    SaveError,
)
from support.small_run import SmallRun, config, train
from support.trees import same


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the run saves; not there yet."""
    return tmp_path / "runs" / "one" / "checkpoints"


def names(directory: Path) -> list[str]:
    """Return the regular files of a directory."""
    # A hidden one may wait to be written over; it goes when the manager is closed.
    visible = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
    return sorted(entry.name for entry in visible if not entry.is_symlink())


def readlink(link: Path) -> str:
    """Return the text of a link."""
    return str(link.readlink())


def losses(cfg: linnaeus.Config, values: list[float | None], **parts: Any) -> linnaeus.CheckpointManager:
    """Go through epochs of two steps with these losses, on a model of one weight."""
    ckpt = linnaeus.CheckpointManager(cfg, **{"model": torch.nn.Linear(1, 1), **parts})
    for value in values:
        ckpt.step()
        ckpt.step()
        ckpt.end_epoch({} if value is None else {"loss": value})
    ckpt.wait()
    return ckpt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The state at the end of a run that nobody stopped."""
    run = SmallRun()
    train(config(tmp_path_factory.mktemp("whole") / "run"), run)
    return run.state()


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 10, 14])
def test_a_stopped_run_goes_on_bit_for_bit(directory: Path, uninterrupted: Any, stop: int) -> None:
    """Stopped after any step, inside an epoch or at its end, the result has the same bits in every part."""
    cfg = config(directory, INTERVAL_STEPS=1)
    train(cfg, SmallRun(), stop_after=stop)
    run = SmallRun(seed=99)
    ckpt = train(cfg, run)
    assert ckpt.progress.step == 15
    assert same(run.state(), uninterrupted)


def test_a_run_stopped_again_and_again_ends_the_same(directory: Path, uninterrupted: Any) -> None:
    """Any number of stops, with saves at some steps only, so that steps are done twice."""
    cfg = config(directory, INTERVAL_STEPS=2, KEEP_LAST_N=1)
    for stop in (3, 5, 6, 9, 13):
        train(cfg, SmallRun(seed=stop), stop_after=stop)
    run = SmallRun(seed=99)
    train(cfg, run)
    assert same(run.state(), uninterrupted)


def test_a_run_with_workers_goes_on_bit_for_bit(directory: Path, tmp_path: Path) -> None:
    """Worker processes and their random augmentation make no difference."""
    whole = SmallRun(num_workers=2)
    train(config(tmp_path / "whole", EPOCHS=2), whole)
    expected = whole.state()
    cfg = config(directory, INTERVAL_STEPS=1, EPOCHS=2)
    train(cfg, SmallRun(num_workers=2), stop_after=7)
    run = SmallRun(num_workers=2, seed=99)
    train(cfg, run)
    assert same(run.state(), expected)


def test_a_finished_run_started_again_does_nothing(directory: Path, uninterrupted: Any) -> None:
    """All epochs are there already, and so is the final state."""
    cfg = config(directory)
    train(cfg, SmallRun())
    before = {name: (directory / name).stat().st_mtime_ns for name in names(directory)}
    run = SmallRun(seed=99)
    ckpt = train(cfg, run)
    assert ckpt.last_saved is None
    assert {name: (directory / name).stat().st_mtime_ns for name in names(directory)} == before
    assert same(run.model.state_dict(), uninterrupted["model"])


def test_what_a_checkpoint_holds(directory: Path) -> None:
    """The documented keys, in plain types, readable by torch alone; the file tells the run without them."""
    ckpt = train(config(directory), SmallRun())
    assert ckpt.last_saved == directory / "checkpoint_epoch_3.pth"
    saved = torch.load(ckpt.last_saved, weights_only=True, mmap=True)
    assert set(saved) == {
        "model", "optimizer", "lr_scheduler", "epoch", "step", "scaler", "ema", "rng", "data", "progress",
        "metrics", "config",
    }  # fmt: skip
    assert (saved["epoch"], saved["step"], saved["config"]["TRAIN"]["EPOCHS"]) == (3, 15, 3)
    about = linnaeus.describe(ckpt.last_saved).about
    assert (about["epoch"], about["step"], about["step_in_epoch"]) == (3, 15, 0)
    assert about["metrics"] == saved["metrics"]
    assert about["config"] == saved["config"]
    assert len(about["config_digest"]) == 64


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"KEEP_LAST_N": 0, "KEEP_TOP_N": 0}, [1, 2, 3, 4, 5, 6]),
        ({"KEEP_LAST_N": 2, "KEEP_TOP_N": 0}, [5, 6]),
        ({"KEEP_LAST_N": 1, "KEEP_TOP_N": 2}, [2, 4, 6]),
        ({"KEEP_LAST_N": 0, "KEEP_TOP_N": 1, "MODE": "max"}, [3, 6]),
        ({"KEEP_LAST_N": 1, "KEEP_TOP_N": 0, "KEEP_EVERY_N_EPOCHS": 3}, [3, 6]),
        ({"KEEP_LAST_N": 1, "KEEP_TOP_N": 1, "METRIC": "accuracy"}, [6]),
        ({}, [4, 5, 6]),
        ({"INTERVAL_EPOCHS": 4, "KEEP_LAST_N": 0, "KEEP_TOP_N": 0}, [4, 6]),
        ({"INTERVAL_EPOCHS": 0, "KEEP_LAST_N": 0, "KEEP_TOP_N": 0}, [6]),
    ],
    ids=str,
)
def test_what_is_kept_of_real_files(directory: Path, settings: dict[str, Any], kept: list[int]) -> None:
    """The union of the KEEP rules stays, all of them 0 keep everything; the last epoch is always saved."""
    losses(
        config(directory, EPOCHS=6, **settings),
        [3, 1, float("nan"), 1, 2, 4] if "MODE" not in settings else [3, 1, 9, 1, 2, 4],
    )
    assert names(directory) == [f"checkpoint_epoch_{epoch}.pth" for epoch in kept]


def test_metrics_are_those_of_the_moment(directory: Path) -> None:
    """A checkpoint at an epoch's end has that epoch's metrics; those inside the next have none of them."""
    cfg = config(directory, EPOCHS=3, INTERVAL_STEPS=1, KEEP_LAST_N=0, KEEP_TOP_N=0)
    losses(cfg, [0.5, 0.25, None])
    metrics = {name: linnaeus.describe(directory / name).about["metrics"] for name in names(directory)}
    assert metrics["checkpoint_epoch_1.pth"] == {"loss": 0.5}
    assert metrics["checkpoint_epoch_2.pth"] == {"loss": 0.25}
    assert metrics["checkpoint_epoch_1_step_3.pth"] == {}
    assert metrics["checkpoint_epoch_3.pth"] == {}
    assert readlink(directory / "best.pth") == "checkpoint_epoch_2.pth"
    for name, values in metrics.items():
        assert linnaeus.load(directory / name)["metrics"] == values


def test_metrics_may_be_tensors_and_numpy_numbers(directory: Path) -> None:
    """They are plain numbers in the file."""
    import numpy as np

    ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=1), model=torch.nn.Linear(1, 1))
    ckpt.step({"loss": torch.tensor(0.5)})
    ckpt.end_epoch({"accuracy": np.float32(0.25)})
    ckpt.wait()
    assert linnaeus.describe(directory / "latest.pth").about["metrics"] == {"loss": 0.5, "accuracy": 0.25}


def test_links_are_relative_and_right_after_every_save(directory: Path) -> None:
    """latest.pth and best.pth name the newest and the best, also after the directory has moved."""
    cfg = config(directory, EPOCHS=4, KEEP_LAST_N=1)
    ckpt = linnaeus.CheckpointManager(cfg, model=torch.nn.Linear(1, 1))
    for loss, best in ((3.0, 1), (1.0, 2), (2.0, 2), (float("nan"), 2)):
        ckpt.end_epoch({"loss": loss})
        ckpt.wait()
        epoch = ckpt.progress.epoch
        assert readlink(directory / "latest.pth") == f"checkpoint_epoch_{epoch}.pth"
        assert readlink(directory / "best.pth") == f"checkpoint_epoch_{best}.pth"
    moved = directory.rename(directory.parent / "moved")
    assert linnaeus.describe(moved / "latest.pth").about["epoch"] == 4
    assert linnaeus.describe(moved / "best.pth").about["epoch"] == 2


def test_best_never_names_a_file_that_was_pruned(directory: Path) -> None:
    """When what it named goes and nothing else was measured, the link goes too."""
    losses(config(directory, EPOCHS=3, KEEP_LAST_N=1, KEEP_TOP_N=0), [1.0, None, None])
    assert names(directory) == ["checkpoint_epoch_3.pth"]
    assert not (directory / "best.pth").is_symlink()


def test_minutes_count_from_the_last_save(directory: Path) -> None:
    """A step saves when the time has come, by the clock that is given."""
    now = [0.0]
    cfg = config(directory, INTERVAL_MINUTES=1, INTERVAL_EPOCHS=0, KEEP_LAST_N=0, KEEP_TOP_N=0)
    ckpt = linnaeus.CheckpointManager(cfg, model=torch.nn.Linear(1, 1), clock=lambda: now[0])
    for seconds in (30, 59, 60, 90, 119, 121):
        now[0] = seconds
        ckpt.step()
    ckpt.wait()
    assert names(directory) == ["checkpoint_epoch_0_step_3.pth", "checkpoint_epoch_0_step_6.pth"]


def test_no_secret_is_in_any_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of buckets, passwords elsewhere and credentials of the environment stay out of checkpoints."""
    monkeypatch.setenv("B2_APPLICATION_KEY", "K005environmentSecret")
    plain = {
        "ENV": {
            "INPUT": {"BUCKET": {"APP_KEY_ID": "0055inputKeyId", "APP_KEY": "K005inputAppKey"}},
            "OUTPUT": {"DIRS": {"CHECKPOINTS": str(directory)}, "BUCKET": {"APP_KEY": "K005outputAppKey"}},
        },
        "EXPERIMENT": {"WANDB": {"API_KEY": "wandbSecret1", "NOTE": "key is K005environmentSecret"}},
        "DATA": {"URL": "https://user:urlPassword7@host/x"},
    }
    with pytest.warns(LinnaeusDeprecationWarning):
        cfg = linnaeus.Config.from_plain(plain)
    losses(cfg, [1.0])
    for entry in directory.iterdir():
        content = entry.read_bytes()
        for secret in (
            "inputKeyId",
            "inputAppKey",
            "outputAppKey",
            "wandbSecret1",
            "environmentSecret",
            "urlPassword7",
        ):
            assert secret.encode() not in content, secret
    assert linnaeus.load(directory / "latest.pth")["config"]["EXPERIMENT"]["WANDB"]["API_KEY"] == "***"


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
    before = names(directory)
    for _ in range(2):
        with pytest.raises(CheckpointInvalidError, match="none of this run's checkpoints"):
            linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume()
        assert names(directory) == before


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
    assert readlink(directory / "best.pth") == "checkpoint_epoch_8.pth"


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
    assert names(directory) == ["checkpoint_epoch_1.pth", "checkpoint_epoch_4.pth"]


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


def test_a_failed_save_leaves_everything_and_says_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is gone is a SaveError; nothing older is touched, and the run may go on."""
    ckpt = losses(config(directory, EPOCHS=9), [1.0])
    gone = directory.rename(directory.with_name("away"))
    with pytest.raises(SaveError, match="No such file"):
        ckpt.save()
    gone.rename(directory)
    assert names(directory) == ["checkpoint_epoch_1.pth"]
    assert ckpt.save().name == "checkpoint_epoch_1.pth"


def test_saving_again_at_the_same_place_replaces_it_whole(directory: Path) -> None:
    """Two saves of one moment are one file."""
    with linnaeus.CheckpointManager(config(directory), model=torch.nn.Linear(1, 1)) as ckpt:
        ckpt.step()
        assert ckpt.save() == ckpt.save() == directory / "checkpoint_epoch_0_step_1.pth"
    assert names(directory) == ["checkpoint_epoch_0_step_1.pth"]


def test_lineage_is_kept_and_handed_on(directory: Path) -> None:
    """Where weights come from stands in every checkpoint and outlives a resume."""
    ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=9), model=torch.nn.Linear(1, 1))
    ckpt.lineage = {"pretrained": ["a.pth"]}
    ckpt.end_epoch()
    ckpt.wait()
    again = linnaeus.CheckpointManager(config(directory, EPOCHS=9), model=torch.nn.Linear(1, 1))
    again.resume()
    again.end_epoch()
    again.wait()
    assert linnaeus.describe(directory / "latest.pth").about["lineage"] == {"pretrained": ["a.pth"]}


def test_a_bucket_without_credentials_is_refused_at_the_start(directory: Path) -> None:
    """Not when the first checkpoint can't be sent."""
    cfg = linnaeus.load_config(
        None, [f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}", "ENV.OUTPUT.BUCKET.ENABLED=true"]
    )
    with pytest.raises(RemoteAuthError, match="B2_APPLICATION_KEY"):
        linnaeus.CheckpointManager(cfg, model=torch.nn.Linear(1, 1))


def test_pruned_blocks_are_written_over_and_given_back(directory: Path) -> None:
    """The next checkpoint takes the blocks of a pruned one; closing the manager leaves nothing hidden."""
    cfg = config(directory, KEEP_LAST_N=1, KEEP_TOP_N=0)
    ckpt = linnaeus.CheckpointManager(cfg, model=torch.nn.Linear(3, 3))
    numbers = []
    for epoch in range(1, 5):
        ckpt.end_epoch()
        ckpt.wait()
        numbers.append((directory / f"checkpoint_epoch_{epoch}.pth").stat().st_ino)
    assert (numbers[2], numbers[3]) == (numbers[0], numbers[1])
    assert linnaeus.verify(directory / "checkpoint_epoch_4.pth").ok
    ckpt.close()
    assert [entry.name for entry in directory.iterdir() if entry.name.startswith(".")] == []


def test_a_diverged_model_is_not_saved_when_asked(directory: Path) -> None:
    """CHECK_FINITE refuses weights with NaN by name, and leaves what is there."""
    model = torch.nn.Linear(3, 3)
    ckpt = linnaeus.CheckpointManager(config(directory, CHECK_FINITE=True), model=model)
    ckpt.end_epoch()
    ckpt.before_mutation()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    ckpt.end_epoch()
    with pytest.raises(SaveError, match=r"model\.weight"):
        ckpt.wait()
    assert names(directory) == ["checkpoint_epoch_1.pth"]
