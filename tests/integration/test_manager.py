"""The one object that a training loop holds: saving, keeping, linking and going on, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.config import LinnaeusDeprecationWarning
from linnaeus.errors import (
    RemoteAuthError,
    SaveError,
)
from support.directories import visible_files
from support.small_run import SmallRun, config, train
from support.trees import same


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the run saves; not there yet."""
    return tmp_path / "runs" / "one" / "checkpoints"


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
    before = {name: (directory / name).stat().st_mtime_ns for name in visible_files(directory)}
    run = SmallRun(seed=99)
    ckpt = train(cfg, run)
    assert ckpt.last_saved is None
    assert {name: (directory / name).stat().st_mtime_ns for name in visible_files(directory)} == before
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
    assert visible_files(directory) == [f"checkpoint_epoch_{epoch}.pth" for epoch in kept]


def test_metrics_are_those_of_the_moment(directory: Path) -> None:
    """A checkpoint at an epoch's end has that epoch's metrics; those inside the next have none of them."""
    cfg = config(directory, EPOCHS=3, INTERVAL_STEPS=1, KEEP_LAST_N=0, KEEP_TOP_N=0)
    losses(cfg, [0.5, 0.25, None])
    metrics = {
        name: linnaeus.describe(directory / name).about["metrics"] for name in visible_files(directory)
    }
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
    assert visible_files(directory) == ["checkpoint_epoch_3.pth"]
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
    assert visible_files(directory) == ["checkpoint_epoch_0_step_3.pth", "checkpoint_epoch_0_step_6.pth"]


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


def test_a_failed_save_leaves_everything_and_says_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is gone is a SaveError; nothing older is touched, and the run may go on."""
    ckpt = losses(config(directory, EPOCHS=9), [1.0])
    gone = directory.rename(directory.with_name("away"))
    with pytest.raises(SaveError, match="No such file"):
        ckpt.save()
    gone.rename(directory)
    assert visible_files(directory) == ["checkpoint_epoch_1.pth"]
    assert ckpt.save().name == "checkpoint_epoch_1.pth"


def test_saving_again_at_the_same_place_replaces_it_whole(directory: Path) -> None:
    """Two saves of one moment are one file."""
    with linnaeus.CheckpointManager(config(directory), model=torch.nn.Linear(1, 1)) as ckpt:
        ckpt.step()
        assert ckpt.save() == ckpt.save() == directory / "checkpoint_epoch_0_step_1.pth"
    assert visible_files(directory) == ["checkpoint_epoch_0_step_1.pth"]


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
    assert visible_files(directory) == ["checkpoint_epoch_1.pth"]
