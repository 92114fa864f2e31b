"""Directories of shards whose writer is killed: never half a checkpoint taken for a whole one."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus import pth
from linnaeus.errors import InsufficientSpaceError
from linnaeus.files import commit_directory, sweep_abandoned
from linnaeus.resuming import choose_newest
from linnaeus.runs import list_checkpoints
from support.file_calls import in_child
from support.killed_saves import killed_before_each, leftovers, recorded, two_epochs_in
from support.small_run import SmallRun, config
from support.torchrun import ranks

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.timeout(170),
    # Newer Pythons warn of forking beside threads; the children use none.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def state(number: int) -> dict[str, object]:
    """Return a state all of whose elements tell its number."""
    return {"model": {f"w{i}": torch.full((50, 400), float(number)) for i in range(12)}, "epoch": number}


def saving_again_and_again(directory: Path) -> None:
    """Save new checkpoints, and one and the same name, until killed."""
    last = max((found.epoch for found in list_checkpoints(directory)), default=0)
    for number in range(last + 1, 10_000):
        for name in (f"checkpoint_epoch_{number}.sharded", "checkpoint_epoch_0.sharded"):
            pth.save_sharded(state(number), directory / name, about={"epoch": number})


def test_killed_at_random_moments_nothing_half_is_seen(tmp_path: Path) -> None:
    """Whatever has a name is whole and of one save, also where it replaced another; the rest is swept."""
    stream = random.Random(7)
    pth.save_sharded(state(0), tmp_path / "warm.sharded")  # what is imported here is there in the children
    shutil.rmtree(tmp_path / "warm.sharded")
    newest = tries = 0
    while tries < 40 or newest < 3:  # a slow machine comes as far, later
        tries += 1
        limit = stream.uniform(0.01, 0.12) * (1 + tries / 20)
        assert in_child(lambda: saving_again_and_again(tmp_path), kill_after_seconds=limit) == -signal.SIGKILL
        for found in list_checkpoints(tmp_path):
            assert found.problem is None
            assert pth.verify(found.path).ok
            content = pth.load(found.path)
            numbers = {float(value) for tensor in content["model"].values() for value in tensor.unique()}
            assert numbers == {float(found.epoch)}
        sweep_abandoned(tmp_path)
        assert all(entry.name.startswith("checkpoint") for entry in tmp_path.iterdir())
        newest = max((found.epoch for found in list_checkpoints(tmp_path)), default=newest)
        for found in list_checkpoints(tmp_path)[4:]:
            if found.name != "checkpoint_epoch_0.sharded":
                shutil.rmtree(found.path)


def prepared(directory: Path) -> linnaeus.CheckpointManager:
    """Return a manager two epochs in, whose next save writes, links and prunes."""
    return two_epochs_in(directory, "sharded")


@pytest.mark.usefixtures("same_size")
def test_killed_before_each_file_call_of_a_save_the_newest_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """Whichever call is the last, the newest is whole, the old one or the new one; the rest is swept."""
    calls = recorded(tmp_path / "recorded" / "run", prepared)
    renamed = calls.index(("rename", str(tmp_path / "recorded" / "run" / "checkpoint_epoch_2.sharded")))
    seen = set()
    for number, directory in killed_before_each(calls, tmp_path, prepared):
        found = list_checkpoints(directory)
        assert all(linnaeus.verify(one.path).ok for one in found), calls[number]
        seen.add(found[0].epoch)
        assert found[0].epoch == (2 if number > renamed else 1)
        for link in ("latest.sharded", "best.sharded"):
            assert (directory / link).exists(), (link, calls[number - 1])
        ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=3), **SmallRun(seed=99).parts())
        assert leftovers(directory) == []
        assert ckpt.resume().epoch == found[0].epoch
    assert seen == {1, 2}


@pytest.mark.usefixtures("same_size")
def test_the_recorded_order_survives_a_power_loss(tmp_path: Path) -> None:
    """All files are on disk before the commit file, that before the name, the name before anything goes."""
    directory = tmp_path / "run"
    order = [(call, path) for call, path in recorded(directory, prepared) if call != "open"]
    renamed = order.index(("rename", str(directory / "checkpoint_epoch_2.sharded")))
    synced = [Path(path) for call, path in order[:renamed] if call == "fsync"]
    commit = next(path for path in synced if path.name == "linnaeus.json")
    temporary = commit.parent
    assert {path.name for path in synced[: synced.index(commit)]} == {
        path.name for path in synced if path.suffix == ".distcp"
    } | {".metadata.tmp"}
    assert synced[-1] == temporary  # its entries
    after = order[renamed + 1 :]
    directory_synced = after.index(("fsync", str(directory)))
    removed = [index for index, (call, path) in enumerate(after) if call in ("unlink", "rmdir")]
    assert removed
    assert directory_synced < min(removed)


def test_a_directory_is_replaced_at_one_instant_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without renameat2 the new directory replaces the old one all the same."""
    monkeypatch.setattr("linnaeus.files._directories._exchange", lambda *_: False)
    for text in ("old", "new"):
        made = tmp_path / f".{text}"
        made.mkdir()
        (made / "file").write_text(text)
        commit_directory(made, tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("told", [True, False])
def test_a_full_disk_is_told_and_costs_nothing(
    small_disk: Path, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before or while writing: the previous checkpoint is untouched, and nothing temporary stays."""
    directory = small_disk / "run"
    model = torch.nn.Linear(300, 300)
    cfg = config(directory, EPOCHS=9, KEEP_LAST_N=1, FORMAT="sharded")
    ckpt = linnaeus.CheckpointManager(cfg, model=model)
    ckpt.end_epoch()
    ckpt.wait()
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    if not told:  # as if another process took the room while the files are written
        monkeypatch.setattr("linnaeus.pth._save_sharded.require_space", lambda *_: None)
    ckpt.end_epoch()
    with pytest.raises(InsufficientSpaceError, match=r"checkpoint_epoch_2\.sharded"):
        ckpt.wait()
    assert pth.verify(directory / "checkpoint_epoch_1.sharded").ok
    assert [entry.name for entry in directory.iterdir() if entry.name.endswith(".tmp")] == []
    ckpt.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "stage", "how"),
    [
        (1, "begin", "killed"),
        (2, "writing", "killed"),
        (0, "commit file", "killed"),
        (0, "end", "killed"),
        (1, "writing", "stopped"),
    ],
)
def test_a_lost_rank_is_named_by_all_others(tmp_path: Path, victim: int, stage: str, how: str) -> None:
    """The others raise, naming it, and the previous checkpoint is the newest valid one."""
    with ranks(3, tmp_path, f"dies:{victim}:{stage}:{how}", module="support.shard_process") as started:
        for rank, process in enumerate(started):
            if rank != victim:
                assert process.wait(timeout=120) == 0
    others = [rank for rank in range(3) if rank != victim]
    assert [json.loads((tmp_path / f"met_{rank}.json").read_text()) for rank in others] == [[victim]] * 2
    choice = choose_newest(tmp_path / "node0")
    assert choice is not None
    assert choice.path.name == "checkpoint_epoch_0.sharded"
    assert choice.passed_over == ()
