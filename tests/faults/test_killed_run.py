"""A run that is killed at any instant and started again ends with the bits of one that was never killed.

Children are forked from this process, which has torch imported already, and end with SIGKILL or `os._exit`:
nothing of Python's own tidying runs in them.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import InsufficientSpaceError
from linnaeus.files import require_space
from linnaeus.runs import list_checkpoints
from support.file_calls import in_child
from support.killed_saves import killed_before_each, leftovers, recorded, two_epochs_in
from support.small_run import SmallRun, config, train
from support.trees import same

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.timeout(170),
    # Newer Pythons warn of forking beside threads; the children use none.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def final_state(directory: Path) -> Any:
    """Return what the run's last checkpoint holds of the training."""
    saved = linnaeus.load(directory / "checkpoint_epoch_3.pth", mmap=False)
    return {
        key: saved[key]
        for key in ("model", "optimizer", "lr_scheduler", "ema", "scaler", "rng", "data", "step")
    }


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The final state of a run that nobody killed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert in_child(lambda: train(config(directory), SmallRun())) == 0
    return final_state(directory)


def run_on(directory: Path) -> Callable[[], object]:
    """Return the act of starting the run (again)."""
    return lambda: train(
        config(directory, INTERVAL_STEPS=1, KEEP_LAST_N=2), SmallRun(), watch=lambda _: time.sleep(0.004)
    )


def test_killed_at_random_instants_it_ends_with_the_same_bits(tmp_path: Path, never_killed: Any) -> None:
    """However often and whenever it is killed, each start goes on, and the end has the same bits."""
    stream = random.Random(4)
    killed = 0
    for number in range(2):
        directory = tmp_path / f"run{number}"
        for _ in range(60):
            limit = stream.uniform(0.02, 0.35)
            status = in_child(run_on(directory), kill_after_seconds=limit)
            assert status in (0, -signal.SIGKILL)
            killed += status != 0
            if status == 0:
                break
            assert all(found.problem is None for found in list_checkpoints(directory))
        assert in_child(run_on(directory)) == 0
        assert same(final_state(directory), never_killed)
        assert leftovers(directory) == []
    assert killed >= 2


def prepared(directory: Path) -> linnaeus.CheckpointManager:
    """Return a manager two epochs in, whose next save writes, links and prunes."""
    return two_epochs_in(directory, "pth")


@pytest.mark.usefixtures("same_size")
def test_killed_before_each_file_call_of_a_save_the_newest_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """Whichever call is the last, the newest is whole, the old one or the new one; the rest is swept."""
    calls = recorded(tmp_path / "recorded" / "run", prepared)
    assert len(calls) >= 8
    renamed = calls.index(("rename", str(tmp_path / "recorded" / "run" / "checkpoint_epoch_2.pth")))
    seen = set()
    for number, directory in killed_before_each(calls, tmp_path, prepared):
        found = list_checkpoints(directory)
        assert all(linnaeus.verify(one.path).ok for one in found), calls[number]
        newest = found[0].epoch
        seen.add(newest)
        assert newest in (1, 2)
        assert newest == (2 if number > renamed else 1)
        for link in ("latest.pth", "best.pth"):
            assert (directory / link).exists(), (link, calls[number - 1])
        run = SmallRun(seed=99)
        ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=3), **run.parts())
        assert leftovers(directory) == []
        assert ckpt.resume().epoch == newest
    assert seen == {1, 2}


@pytest.mark.usefixtures("same_size")
def test_the_recorded_order_survives_a_power_loss(tmp_path: Path) -> None:
    """The file is on disk before it has its name, the name is on disk before anything is pruned."""
    directory = tmp_path / "run"
    calls = recorded(directory, prepared)
    final = str(directory / "checkpoint_epoch_2.pth")
    order = [(call, path) for call, path in calls if call != "open"]
    renamed = order.index(("rename", final))
    temporary = next(path for call, path in order if call in ("write", "pwrite", "fsync"))
    assert Path(temporary).name.startswith(".checkpoint_epoch_2.pth.")
    assert order.index(("fsync", temporary)) < renamed
    written_after = [
        call
        for call, path in calls[calls.index(("fsync", temporary)) :]
        if path == temporary and "write" in call
    ]
    assert written_after == []
    directory_synced = order.index(("fsync", str(directory)))
    assert renamed < directory_synced
    removed = [
        index
        for index, (call, path) in enumerate(order)
        # A pruned file is removed, or renamed to be written over.
        if (call == "unlink" and path.endswith(".pth"))
        or (call == "rename" and Path(path).name.startswith(".checkpoint"))
    ]
    assert removed
    assert directory_synced < min(removed)
    assert max(index for index, (call, _) in enumerate(order) if call == "symlink") < min(removed)
    assert all(
        path.endswith("checkpoint_epoch_0_step_10.pth") or "epoch_1" in path
        for _, path in (order[i] for i in removed)
    )


@pytest.mark.parametrize("told", [True, False])
def test_a_full_disk_is_told_and_costs_nothing(
    small_disk: Path, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before or while writing: the previous checkpoint is untouched, and no temporary file stays."""
    directory = small_disk / "run"
    model = torch.nn.Linear(300, 300)
    ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=9, KEEP_LAST_N=1), model=model)
    ckpt.end_epoch()
    ckpt.wait()
    before = (directory / "checkpoint_epoch_1.pth").read_bytes()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    if not told:  # as if another process took the room while the file is written
        checks = iter([lambda *_: None])
        real = require_space
        monkeypatch.setattr("linnaeus.saving._saver.require_space", lambda *args: next(checks, real)(*args))
    ckpt.end_epoch()
    with pytest.raises(InsufficientSpaceError) as caught:
        ckpt.wait()
    assert "checkpoint_epoch_2.pth" in str(caught.value)
    assert (caught.value.needed_bytes is not None) == told
    assert sorted(entry.name for entry in directory.iterdir()) == ["checkpoint_epoch_1.pth", "latest.pth"]
    assert (directory / "checkpoint_epoch_1.pth").read_bytes() == before
    filler.unlink()
    assert ckpt.save().name == "checkpoint_epoch_2.pth"
    assert linnaeus.verify(directory / "latest.pth").ok
