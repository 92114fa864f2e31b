"""Saving while training goes on: how long training stands still, what it costs in time and in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import linnaeus
from benchmarks import _savers as savers
from benchmarks._settings import MAIN, Settings
from benchmarks._states import Training, many_small, named_tensors, training
from benchmarks._steps import ImageSteps
from benchmarks._timing import Bar, Comparison, Sample, Way, take_turns
from linnaeus.resuming import choose_newest
from linnaeus.runs import list_checkpoints

OURS, MEMCPY = "linnaeus", "one memcpy of the state"
_ROOT = Path(__file__).resolve().parent.parent
_SAVE_EVERY = 5


def manager_of(run: Training, directory: Path, *settings: str) -> linnaeus.CheckpointManager:
    """Return a manager that saves only when told to."""
    cfg = linnaeus.load_config(
        None,
        [
            f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}",
            "SCHEDULE.CHECKPOINT.INTERVAL_EPOCHS=0",
            "SCHEDULE.CHECKPOINT.KEEP_LAST_N=2",
            "SCHEDULE.CHECKPOINT.EXIT_SIGNALS=[]",
            *settings,
        ],
    )
    return linnaeus.CheckpointManager(cfg, model=run.model, optimizer=run.optimizer)


def blocked(settings: Settings) -> Iterator[Comparison]:
    """Time what training waits for: the call alone, and a step of the optimizer right after it."""
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    run = training(size)
    with settings.directory() as root:
        ckpt = manager_of(run, root / "run", "SCHEDULE.CHECKPOINT.INTERVAL_STEPS=1")
        tensors = list(named_tensors(run.state()).values())
        copies = [torch.empty_like(tensor).copy_(tensor) for tensor in tensors]
        with _process_group(root):
            ways = [
                Way("DCP async_save", partial(_distributed_save, run.state(), root), _finish_distributed),
                # What the one before left to its thread would else run beside the next.
                Way(OURS, ckpt.step, _finish_distributed),
                Way("torch.save + fsync + rename", partial(_durably, run, root), ckpt.wait),
            ]
            samples = take_turns(ways, settings.runs * 2)
            _finish_distributed()
        bars = [Bar(OURS, at_most=2), Bar(OURS, "DCP async_save", faster=10)] if size == MAIN else []
        yield Comparison(f"training stands still for one save, {size}", "ms", samples, OURS, bars)
        forced = "linnaeus, step at once"
        ways = [
            Way(MEMCPY, partial(_copy, copies, tensors), ckpt.wait),
            Way(forced, partial(_step_at_once, ckpt), ckpt.wait),
        ]
        samples = take_turns(ways, settings.runs * 2)
        bars = [Bar(forced, MEMCPY, at_most=1.2)] if size == MAIN else []
        ckpt.close()
    yield Comparison(f"the optimizer steps right after a save began, {size}", "ms", samples, MEMCPY, bars)


def _step_at_once(ckpt: linnaeus.CheckpointManager) -> None:
    ckpt.step()
    ckpt.before_mutation()  # what the hook before an optimizer's step does


def _copy(copies: list[torch.Tensor], tensors: list[torch.Tensor]) -> None:
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor.detach())


def _durably(run: Training, root: Path) -> None:
    savers.torch_save_durably(run.state(), root / "durable.pth")


@contextmanager
def _process_group(root: Path) -> Iterator[None]:
    """Make a group of this process alone, which async_save asks for."""
    store = distributed.FileStore(str(root / "store"), 1)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


_pending: list[Any] = []


def _distributed_save(state: Any, root: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import async_save

    _pending.append(async_save(state, checkpoint_id=str(root / "dcp")))


def _finish_distributed() -> None:
    while _pending:
        _pending.pop().result()


def wall(settings: Settings) -> Iterator[Comparison]:
    """Train ConvNeXt for real, batch 16, and save at every fifth step: beside it, in between, not at all."""
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    run = training(size)
    steps = ImageSteps(run, batch=16 if size == MAIN else 2)
    steps.do(1)
    with settings.directory() as root:
        ckpt = manager_of(run, root / "run", f"SCHEDULE.CHECKPOINT.INTERVAL_STEPS={_SAVE_EVERY}")
        ckpt.save()
        steps.do(_SAVE_EVERY // 2, ckpt)  # so that saves begin in the middle of what is timed
        seen: dict[str, list[float]] = {"not saving": [], OURS: [], "torch.save + fsync + rename": []}
        before = ckpt._account.blocked_seconds
        for _ in range(settings.runs):
            for name, values in seen.items():
                started = time.perf_counter()
                if name.startswith("torch"):
                    _durably(run, root)
                steps.do(_SAVE_EVERY, ckpt if name == OURS else None)
                if name == OURS:
                    ckpt.wait()
                values.append((time.perf_counter() - started) * 1e3)
        stood_still = (ckpt._account.blocked_seconds - before) / settings.runs * 1e3
        ckpt.close()
    samples = {name: Sample(tuple(values)) for name, values in seen.items()}
    bars = [Bar(OURS, "not saving", at_most=1.01)] if size == MAIN else []
    title = f"{_SAVE_EVERY} real steps and one save, {size}; linnaeus blocked {stood_still:.2f} ms of them"
    yield Comparison(title, "ms", samples, "not saving", bars)


def memory(settings: Settings) -> Iterator[Comparison]:
    """Raise of the peak of memory by a save, in a fresh process."""
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    state_mb = sum(t.nbytes for t in named_tensors(training(size).state()).values()) / 1e6
    with settings.directory() as root:
        command = [sys.executable, "-m", "benchmarks.child", "beside", OURS, str(root / "run"), size]
        done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    extra = float(json.loads(done.stdout)["extra_bytes"]) / 1e6
    samples = {"the state": Sample((state_mb,)), OURS: Sample((extra,))}
    bars = [Bar(OURS, "the state", at_most=0.1)] if size == MAIN else []
    yield Comparison(f"extra memory while saving {size}", "MB", samples, "the state", bars)


def choosing(settings: Settings) -> Iterator[Comparison]:
    """Find the newest of a hundred checkpoints, and check its every byte."""
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    with settings.directory() as root:
        for epoch in range(1, 100):  # as many tensors each as the large one, which is what a look costs
            about = {"epoch": epoch, "step": epoch * 10, "step_in_epoch": 0, "metrics": {"loss": 1.0}}
            path = root / f"checkpoint_epoch_{epoch}.pth"
            linnaeus.save(many_small(728), path, about=about, durable=False)
        newest = root / "checkpoint_epoch_100.pth"
        linnaeus.save(training(size).state(), newest, about={"epoch": 100, "step": 1000})
        ways = [
            Way("verify the newest", partial(linnaeus.verify, newest)),
            Way("choose the newest valid", partial(choose_newest, root)),
            Way("look at all 100", partial(list_checkpoints, root)),
        ]
        samples = take_turns(ways, settings.runs * 2)
    bars = [Bar("look at all 100", at_most=50)] if size == MAIN else []
    yield Comparison(f"choose among 100 checkpoints, {size}", "ms", samples, "verify the newest", bars)
