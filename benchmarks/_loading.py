"""Loading into models: here, again and again, and in fresh processes, whose memory is watched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from safetensors.torch import save_file

import linnaeus
from benchmarks._loaders import FILLING, INFERENCE
from benchmarks._settings import MAIN, Settings
from benchmarks._states import training
from benchmarks._timing import Bar, Comparison, Sample, Way, take_turns

_ROOT = Path(__file__).resolve().parent.parent


def inference(settings: Settings) -> Iterator[Comparison]:
    """Get a usable model out of a training checkpoint."""
    reference, ours, *_ = INFERENCE
    for size in settings.main_sizes:
        with settings.directory() as root:
            path = root / "a.pth"
            run = training(size)
            linnaeus.save(run.state(), path)
            save_file(run.model.state_dict(), path.with_suffix(".safetensors"))
            ways = [Way(name, partial(load, path, size)) for name, load in INFERENCE.items()]
            samples = take_turns(ways, settings.runs)
            bars = [Bar(ours, reference, faster=6)] if size == MAIN else []
            yield Comparison(f"a model for inference out of {size}", "ms", samples, reference, bars)
            _, memory = _in_fresh_processes("inference", INFERENCE, path, size, 1)
        bars = [Bar(ours, reference, at_most=0.1)] if size == MAIN else []
        yield Comparison(f"a model for inference out of {size}: peak memory", "MB", memory, reference, bars)


def filling(settings: Settings) -> Iterator[Comparison]:
    """Fill a model and an optimizer that are there."""
    reference, ours, *_ = FILLING
    for size in settings.main_sizes:
        with settings.directory() as root:
            path, run = root / "a.pth", training(size)
            linnaeus.save(run.state(), path)
            ways = [Way(name, partial(fill, path, run)) for name, fill in FILLING.items()]
            samples = take_turns(ways, settings.runs)
            bars = [Bar(ours, reference, faster=3)] if size == MAIN else []
            yield Comparison(f"fill a model and AdamW with {size}", "ms", samples, reference, bars)
            fresh, memory = _in_fresh_processes("filling", FILLING, path, size, settings.runs)
        # As runs resume: once in a process, whose memory for a second copy is not there yet.
        yield Comparison(
            f"fill a model and AdamW with {size}, in a fresh process", "ms", fresh, reference, bars
        )
        bars = [Bar(ours, reference, at_most=0.1)] if size == MAIN else []
        yield Comparison(f"fill a model and AdamW with {size}: peak memory", "MB", memory, reference, bars)


def _in_fresh_processes(
    kind: str, names: Iterable[str], path: Path, size: str, runs: int
) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """Return how long each way takes in processes that have everything imported, and their peak's rise.

    Returns:
        Milliseconds and megabytes by the names of the ways.
    """
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(runs):
        for name, values in seen.items():
            values.append(_in_child(kind, name, path, size))
    times = {name: Sample(tuple(time for time, _ in values)) for name, values in seen.items()}
    return times, {name: Sample(tuple(memory for _, memory in values)) for name, values in seen.items()}


def _in_child(kind: str, name: str, path: Path, size: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.child", kind, name, str(path), size]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return found["seconds"] * 1e3, found["extra_bytes"] / 1e6
