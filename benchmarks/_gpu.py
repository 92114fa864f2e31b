"""How long a run on a GPU stands still for a save, against one of its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from benchmarks._beside import OURS, manager_of
from benchmarks._settings import NotMeasuredError, Settings
from benchmarks._states import training
from benchmarks._steps import ImageSteps
from benchmarks._timing import Bar, Comparison, Sample

_SIZE, _BATCH = "3.6 GB", 128
_A_STEP = "a step"


def on_a_gpu(settings: Settings) -> Iterator[Comparison]:
    """Train on the GPU, and save now and then."""
    if not torch.cuda.is_available():
        raise NotMeasuredError("no GPU here")
    yield standing_still(settings, "cuda", _SIZE, _BATCH)


def standing_still(settings: Settings, device: str, size: str, batch: int) -> Comparison:
    """Return how long a step takes, and for how long of it training waits for a save.

    Args:
        settings: How often, and where to write.
        device: Where the state is.
        size: Of the state.
        batch: Images in a step.
    """
    run = training(size, device)
    steps = ImageSteps(run, batch)
    with settings.directory() as root:
        ckpt = manager_of(run, root / "run", "SCHEDULE.CHECKPOINT.INTERVAL_STEPS=1")
        steps.do(2, ckpt)  # takes memory that is kept, once
        ckpt.wait()
        took, blocked = [], []
        for _ in range(settings.runs):
            took.append(_seconds(steps, device))
            before = ckpt._account.blocked_seconds
            ckpt.step()
            steps.do(1)
            blocked.append(ckpt._account.blocked_seconds - before)
            ckpt.wait()
        ckpt.close()
    samples = {
        _A_STEP: Sample(tuple(value * 1e3 for value in took)),
        OURS: Sample(tuple(value * 1e3 for value in blocked)),
    }
    bars = [Bar(OURS, _A_STEP, at_most=0.01)]
    title = f"training stands still for one save on {device}, {size}, batch {batch}"
    return Comparison(title, "ms", samples, _A_STEP, bars)


def _seconds(steps: ImageSteps, device: str) -> float:
    _synchronize(device)
    started = time.perf_counter()
    steps.do(1)
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
