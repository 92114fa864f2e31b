"""What is saved while training goes on is the state of one instant, bit for bit, whatever training does.

The states are tiny, so the writer is slowed down at random places of its reading: optimizers then step
before, in the middle of, and after it.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.saving import _saver
from linnaeus.state import _guard
from support.small_run import config
from support.trees import same

NUM_SAVES = int(os.environ.get("LINNAEUS_TORN_SAVES", "1000"))
AT_ONCE = 20


class Wobbly(nn.Module):
    """Weights of several sizes, tied ones, a frozen one, and statistics that change in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.Linear(33, 7))
        self.tied = nn.Linear(7, 33)
        self.tied.weight = self.body[0].weight
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.scale = nn.Parameter(torch.randn(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * self.scale + self.tied(x).mean()


class Run:
    """A model with several optimizers that step at different times, and averaged weights."""

    def __init__(self, directory: Path, stream: random.Random, form: str = "pth") -> None:
        torch.manual_seed(stream.randrange(1000))
        self.stream = stream
        self.model = Wobbly()
        self.ema = torch.optim.swa_utils.AveragedModel(self.model)
        body, rest = list(self.model.body.parameters()), [self.model.scale, self.model.tied.bias]
        self.optimizers = {
            "adam": torch.optim.AdamW(body, lr=0.1),
            "sgd": torch.optim.SGD(rest, lr=0.1, momentum=0.9),
        }
        self.ckpt = linnaeus.CheckpointManager(
            config(
                directory,
                EPOCHS=10**6,
                KEEP_LAST_N=0,
                KEEP_TOP_N=0,
                HOLD_SECONDS=stream.choice([0, 0.002]),
                FORMAT=form,
            ),
            model=self.model,
            optimizer=self.optimizers,
            ema=self.ema,
        )
        self.backward()
        for one in self.optimizers.values():
            one.step()

    def backward(self) -> None:
        """Accumulate a gradient; the statistics of the batches move."""
        self.model(torch.randn(4, 7)).square().mean().backward()

    def state(self) -> dict[str, Any]:
        """Return a copy of what a checkpoint must hold."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": {name: one.state_dict() for name, one in self.optimizers.items()},
            "ema": self.ema.state_dict(),
        }
        return {key: plain(value) for key, value in parts.items()}


def plain(node: Any) -> Any:
    """Return a deep copy, plain dicts all through."""
    if isinstance(node, torch.Tensor):
        return node.detach().clone()
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(item) for item in node] if isinstance(node, list) else node


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory, where a thousand saves do not wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture
def dawdling(monkeypatch: pytest.MonkeyPatch) -> Iterator[random.Random]:
    """Let the writer rest at random places, and read in small pieces."""
    stream = random.Random(11)
    real = _guard.Guard.pieces

    def slowly(self: Any, storage: torch.UntypedStorage) -> Iterator[memoryview]:
        for piece in real(self, storage):
            if stream.random() < 0.15:
                time.sleep(stream.random() * 0.002)
            yield piece

    monkeypatch.setattr(_guard, "_PIECE_BYTES", 256)
    monkeypatch.setattr(_guard.Guard, "pieces", slowly)
    return stream


def meddle(run: Run) -> None:
    """Do what training does between two saves: forward, backward, steps of any optimizer, averaging."""
    for _ in range(run.stream.randrange(4)):
        act = run.stream.randrange(5)
        if act == 0:
            time.sleep(run.stream.random() * 0.004)
        elif act == 1:
            run.backward()
        elif act == 2:
            run.ema.update_parameters(run.model)
        else:
            run.stream.choice(list(run.optimizers.values())).step()


def save_many(run: Run, count: int, change: Any) -> dict[Path, Any]:
    """Save again and again while training goes on; return the state at each save's instant, by file."""
    expected: dict[Path, Any] = {}
    for _ in range(count):
        before = run.ckpt.newest
        run.ckpt.progress = run.ckpt.progress.after_step()
        run.ckpt._pipeline.poll()  # may begin to save again
        state = run.state()
        run.ckpt._begin_saving()
        if run.ckpt.newest != before and run.ckpt.newest is not None:
            expected[run.ckpt.newest] = state
        meddle(run)
        change(run)
    redone = run.ckpt._account.num_redone
    run.ckpt.wait()
    if run.ckpt._account.num_redone > redone and run.ckpt.last_saved is not None:
        expected[run.ckpt.last_saved] = run.state()  # done again by copy, right now
    run.ckpt.close()
    return expected


def check(directory: Path, expected: dict[Path, Any]) -> int:
    """Compare every published file with the state at its step; return how many there are."""
    files = sorted(directory.glob("checkpoint_*"))
    for path in files:
        saved = linnaeus.load(path, mmap=False)
        assert same({key: plain(saved[key]) for key in ("model", "optimizer", "ema")}, expected[path]), path
        assert f"step_{saved['step']}." in path.name
    return len(files)


@pytest.mark.timeout(600)
def test_optimizers_that_step_at_random_moments_tear_nothing(place: Path, dawdling: random.Random) -> None:
    """Several optimizers, tied and frozen weights, statistics and averages: each file is one instant."""
    for number in range(NUM_SAVES * 7 // 10 // AT_ONCE):
        run = Run(place / str(number), dawdling, "sharded" if number % 10 == 0 else "pth")
        expected = save_many(run, AT_ONCE, lambda _: None)
        assert check(run.ckpt.directory, expected) == AT_ONCE
        assert run.ckpt._account.num_redone == 0


@pytest.mark.timeout(600)
def test_announced_changes_tear_nothing(place: Path, dawdling: random.Random) -> None:
    """Weights changed by hand after `before_mutation`, also through `.data`, are saved as they were."""

    def change(run: Run) -> None:
        run.ckpt.before_mutation()
        for parameter in run.model.parameters():
            parameter.data.mul_(1.01)
        for state in run.optimizers["adam"].state.values():
            state["exp_avg"].data.add_(1)

    for number in range(NUM_SAVES // 5 // AT_ONCE):
        run = Run(place / str(number), dawdling)
        expected = save_many(run, AT_ONCE, change)
        assert check(run.ckpt.directory, expected) == AT_ONCE
        assert run.ckpt._account.num_redone == 0


def summed(guard: Any) -> bool:
    """Tell whether the writer has taken its first sums."""
    blocks = list(guard._blocks.values())
    return bool(blocks) and all(block.crc32 is not None for block in blocks)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hidden", [False, True], ids=["in place", "through .data"])
def test_unannounced_changes_are_never_published(place: Path, dawdling: random.Random, hidden: bool) -> None:
    """What changes unseen is noticed by versions or checksums, thrown away, and saved again by copy."""

    def change(run: Run) -> None:
        task = run.ckpt._pipeline._task
        snapshot = task and task.job.snapshot
        guard = snapshot and snapshot.guard
        # What changes before the first sums are taken can't be noticed.
        while hidden and guard and not task.is_finished and not summed(guard):
            time.sleep(0)
        with torch.no_grad():
            for parameter in run.model.parameters():
                (parameter.data if hidden else parameter).mul_(1.01)

    redone = num_files = 0
    for number in range(NUM_SAVES // 100):
        directory = place / str(number)
        run = Run(directory, dawdling, "sharded" if number % 3 == 0 else "pth")
        expected = save_many(run, 5, change)
        num_files += check(directory, expected)
        redone += run.ckpt._account.num_redone
    assert redone
    assert num_files >= NUM_SAVES // 100 * 4


def test_a_run_that_changed_once_goes_back_to_saving_without_copies(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten good saves by copy the next one reads the state where it is; a second change doubles that."""
    run, asked, may_write = Run(place / "run", random.Random(1)), list[bool](), threading.Event()
    make, write = run.ckpt._pipeline._make, _saver._write_file

    def noted(by_copy: bool) -> Any:
        asked.append(by_copy)
        return make(by_copy)

    def waits(*args: Any) -> None:
        may_write.wait()
        write(*args)

    monkeypatch.setattr(run.ckpt._pipeline, "_make", noted)
    monkeypatch.setattr(_saver, "_write_file", waits)
    while len(asked) < 35:
        may_write.clear()
        run.ckpt.progress = run.ckpt.progress.after_step()
        run.ckpt._begin_saving()
        if not asked[-1] and asked.count(False) <= 2:  # the writer has not begun
            with torch.no_grad():
                run.model.scale.add_(1)
        may_write.set()
        run.ckpt.wait()
    run.ckpt.close()
    assert asked == [False, *[True] * 10, False, *[True] * 20, False, False, False]
    assert run.ckpt._account.num_redone == 2
