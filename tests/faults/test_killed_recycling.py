"""A save over the blocks of a pruned checkpoint, killed at any instant: nothing that counts is lost.

The blocks written over are under a temporary name, so whatever the instant, the newest checkpoint is the old
one or the new one, whole, and what remains is swept.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.runs import list_checkpoints
from support.file_calls import FileCalls, in_child
from support.leases import require_leases
from support.small_run import config

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.timeout(170),
    # Newer Pythons warn of forking beside threads; the children use none.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

WRITES = (
    "write",
    "pwrite",
    "writev",
    "sendfile",
    "copy_file_range",
    "ftruncate",
)
BEFORE = 3  # epochs saved before the watched one; by then a pruned file has given its blocks


@pytest.fixture(autouse=True)
def leases(tmp_path: Path) -> None:
    """Skip where the filesystem grants no leases, without which nothing is recycled."""
    require_leases(tmp_path / "probe")


def weights(epoch: int) -> torch.Tensor:
    """Return what an epoch's checkpoint must hold."""
    return torch.full((300, 300), float(epoch))


def prepared(directory: Path) -> linnaeus.CheckpointManager:
    """Return a manager with a recycled file at hand, whose next save is written over it."""
    model = torch.nn.Linear(300, 300, bias=False)
    ckpt = linnaeus.CheckpointManager(config(directory, EPOCHS=9, KEEP_LAST_N=1), model=model)
    for epoch in range(1, BEFORE + 2):
        with torch.no_grad():
            model.weight.copy_(weights(epoch))
        if epoch <= BEFORE:
            ckpt.end_epoch()
            ckpt.wait()
    assert any(entry.name.endswith(".tmp") for entry in directory.iterdir())
    return ckpt


def recorded(directory: Path) -> list[tuple[str, str]]:
    """Return the file calls of one good save over recycled blocks, from a child."""
    notes = directory.parent / "calls.json"

    def act() -> None:
        ckpt = prepared(directory)
        spare = next(entry for entry in directory.iterdir() if entry.name.endswith(".tmp"))
        inode = spare.stat().st_ino
        calls = FileCalls(directory)
        ckpt.end_epoch()
        ckpt.wait()
        calls.disarm()
        assert (directory / f"checkpoint_epoch_{BEFORE + 1}.pth").stat().st_ino == inode
        notes.write_text(json.dumps([[str(spare), ""], *calls.calls]))

    directory.parent.mkdir(parents=True, exist_ok=True)
    assert in_child(act) == 0
    return [(call, path) for call, path in json.loads(notes.read_text())]


@pytest.mark.usefixtures("same_size")
def test_killed_before_each_call_of_a_recycling_save_nothing_that_counts_is_lost(tmp_path: Path) -> None:
    """Whichever call is the last, the newest is the old or the new one, whole; the rest is swept."""
    (spare, _), *calls = recorded(tmp_path / "recorded" / "run")
    assert ("pwrite", spare) in calls
    final = tmp_path / "recorded" / "run" / f"checkpoint_epoch_{BEFORE + 1}.pth"
    renamed = calls.index(("rename", str(final)))
    for number in range(len(calls) + 1):
        directory = tmp_path / str(number) / "run"

        def act(directory: Path = directory, number: int = number) -> None:
            ckpt = prepared(directory)
            FileCalls(directory, kill_before=number)
            ckpt.end_epoch()
            ckpt.wait()

        directory.parent.mkdir()
        status = in_child(act)
        assert status == (0 if number == len(calls) else -signal.SIGKILL), calls[number : number + 1]
        newest, *_ = found = list_checkpoints(directory)
        assert newest.epoch == (BEFORE + 1 if number > renamed else BEFORE), calls[number - 1]
        for one in found:
            assert linnaeus.verify(one.path).ok
            loaded = linnaeus.load(one.path, mmap=False)
            assert torch.equal(loaded["model"]["weight"], weights(one.epoch))
        assert (directory / "latest.pth").exists()
        linnaeus.CheckpointManager(
            config(directory, EPOCHS=9, KEEP_LAST_N=1), model=torch.nn.Linear(300, 300, bias=False)
        ).close()
        assert not [entry.name for entry in directory.iterdir() if entry.name.endswith(".tmp")]


@pytest.mark.usefixtures("same_size")
def test_the_recorded_order_of_a_recycling_save_survives_a_power_loss(tmp_path: Path) -> None:
    """Written under a hidden name, on disk before it has its name, on disk with its name before pruning."""
    directory = tmp_path / "run"
    (spare, _), *calls = recorded(directory)
    final, pruned = (str(directory / f"checkpoint_epoch_{epoch}.pth") for epoch in (BEFORE + 1, BEFORE))
    writes = [index for index, (call, path) in enumerate(calls) if call in WRITES and path == spare]
    assert writes
    synced = calls.index(("fsync", spare))
    renamed = calls.index(("rename", final))
    directory_synced = calls.index(("fsync", str(directory)))
    assert max(writes) < synced < renamed < directory_synced
    assert not [call for call in calls if call[0] in WRITES and call[1] in (final, pruned)]
    pruning = [
        index
        for index, (call, path) in enumerate(calls)
        if call in ("rename", "unlink") and f"{Path(pruned).name}" in path
    ]
    assert pruning
    assert directory_synced < min(pruning)
