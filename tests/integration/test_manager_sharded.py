"""Runs that are saved as directories of shards: the same promises as for one file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import linnaeus
from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, SaveError
from support.small_run import SmallRun, config, train
from support.trees import same


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the run saves; not there yet."""
    return tmp_path / "runs" / "one" / "checkpoints"


def visible(directory: Path) -> list[str]:
    """Return what is no link in a directory."""
    return sorted(e.name for e in directory.iterdir() if e.name[0] != "." and not e.is_symlink())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The state at the end of a run that nobody stopped."""
    run = SmallRun()
    train(config(tmp_path_factory.mktemp("whole") / "run"), run)
    return run.state()


@pytest.mark.parametrize("stop", [1, 5, 6, 14])
@pytest.mark.parametrize("beside", [True, False])
def test_a_stopped_run_goes_on_bit_for_bit(
    directory: Path, uninterrupted: Any, stop: int, *, beside: bool
) -> None:
    """Stopped after any step, the result has the same bits in every part."""
    cfg = config(directory, INTERVAL_STEPS=1, FORMAT="sharded", ASYNC=beside)
    train(cfg, SmallRun(), stop_after=stop)
    run = SmallRun(seed=99)
    train(cfg, run)
    assert same(run.state(), uninterrupted)


@pytest.mark.parametrize("forms", [("pth", "sharded"), ("sharded", "pth")])
def test_a_run_may_change_its_format(directory: Path, uninterrupted: Any, forms: tuple[str, str]) -> None:
    """The newest valid checkpoint is gone on from, of whatever format, and retention counts both."""
    train(config(directory, INTERVAL_STEPS=1, FORMAT=forms[0]), SmallRun(), stop_after=6)
    run = SmallRun(seed=99)
    train(config(directory, INTERVAL_STEPS=1, FORMAT=forms[1], KEEP_LAST_N=2, KEEP_TOP_N=0), run)
    assert same(run.state(), uninterrupted)
    assert {Path(name).suffix for name in visible(directory)} == {f".{forms[1]}", f".{forms[0]}"}
    kept = [name for name in visible(directory) if name.endswith(forms[1])]
    assert len(kept) == 2  # and the one that it went on from
    assert {link.suffix for link in directory.iterdir() if link.is_symlink()} == {f".{forms[1]}"}


def test_links_lead_to_directories(directory: Path) -> None:
    """`latest.sharded` and `best.sharded` are relative links to directories."""
    train(config(directory, FORMAT="sharded", KEEP_LAST_N=1), SmallRun())
    assert (directory / "latest.sharded").readlink() == Path("checkpoint_epoch_3.sharded")
    assert pth.verify(directory / "best.sharded").ok
    assert not (directory / "latest.pth").is_symlink()


def shard_of(checkpoint: Path) -> Path:
    """Return the largest file of a checkpoint."""
    return max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    """Alter one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "uncommitted", "altered commit"])
def test_a_damaged_directory_is_passed_over(
    directory: Path, uninterrupted: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory with one thing wrong is found by verify and moved aside; the older one is gone on from."""
    cfg = config(directory, INTERVAL_STEPS=1, FORMAT="sharded")
    train(cfg, SmallRun(), stop_after=6)
    newest = directory / (directory / "latest.sharded").readlink()
    if damage == "bit":
        flip(shard_of(newest))
    elif damage == "cut":
        shard_of(newest).write_bytes(shard_of(newest).read_bytes()[:-1])
    elif damage == "gone":
        shard_of(newest).unlink()
    elif damage == "uncommitted":
        (newest / "linnaeus.json").unlink()
    else:
        flip(newest / "linnaeus.json")
    assert not pth.verify(newest).ok
    run = SmallRun(seed=99)
    with caplog.at_level(logging.WARNING):
        train(cfg, run)
    assert f"passed over {newest.name}" in caplog.text
    assert (directory / f"{newest.name}.invalid").is_dir()
    assert same(run.state(), uninterrupted)


def test_a_directory_with_nothing_whole_is_no_fresh_start(directory: Path) -> None:
    """When the only directory is damaged, the start is refused."""
    cfg = config(directory, FORMAT="sharded")
    train(cfg, SmallRun(), stop_after=6)
    for checkpoint in directory.glob("checkpoint*"):
        flip(shard_of(checkpoint))
    with pytest.raises(CheckpointInvalidError, match="none of this run's checkpoints"):
        train(cfg, SmallRun())


def test_what_others_wrote_can_be_named(directory: Path, tmp_path: Path) -> None:
    """TRAIN.RESUME takes a directory that plain torch.distributed.checkpoint wrote."""
    source = SmallRun()
    for _ in range(2):
        for batch in source.loader:
            source.learn(batch)
    plain = tmp_path / "plain"
    parts = {name: getattr(source, name).state_dict() for name in ("model", "optimizer", "lr_scheduler")}
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({**parts, "epoch": 2, "step": 10}, checkpoint_id=plain)
    run = SmallRun(seed=99)
    ckpt = linnaeus.CheckpointManager(
        config(directory, RESUME=str(plain)),
        model=run.model,
        optimizer=run.optimizer,
        lr_scheduler=run.lr_scheduler,
    )
    progress = ckpt.resume()
    ckpt.close()
    assert (progress.epoch, progress.step) == (2, 10)
    for name in parts:
        assert same(getattr(run, name).state_dict(), parts[name])


def test_what_a_directory_cannot_hold_is_refused(directory: Path) -> None:
    """A sparse tensor is an error that names it and leaves nothing."""
    model = torch.nn.Linear(1, 1)
    model.register_buffer("odd", torch.eye(3).to_sparse())
    ckpt = linnaeus.CheckpointManager(config(directory, FORMAT="sharded"), model=model)
    with pytest.raises(SaveError, match=r"model\.odd"):
        ckpt.save()
    ckpt.close()
    assert [entry.name for entry in directory.iterdir()] == []
