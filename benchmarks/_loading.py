"""Loading into models: time here, memory in a fresh process for each way."""

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
            memory = _extra_memory("inference", INFERENCE, path, size)
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
            memory = _extra_memory("filling", FILLING, path, size)
        bars = [Bar(ours, reference, at_most=0.1)] if size == MAIN else []
        yield Comparison(f"fill a model and AdamW with {size}: peak memory", "MB", memory, reference, bars)


def _extra_memory(kind: str, names: Iterable[str], path: Path, size: str) -> dict[str, Sample]:
    """Return by how much each way raises the peak of a fresh process that has everything imported."""
    return {name: Sample((_in_child(kind, name, path, size),)) for name in names}


def _in_child(kind: str, name: str, path: Path, size: str) -> float:
    command = [sys.executable, "-m", "benchmarks.child", kind, name, str(path), size]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["extra_bytes"]) / 1e6
