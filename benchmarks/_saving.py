"""Saving: inside a training loop, for the first time, twice at once, and many small tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import linnaeus
from benchmarks import _savers as savers
from benchmarks._settings import MAIN, Settings
from benchmarks._states import Training, many_small, named_tensors, training
from benchmarks._timing import Bar, Comparison, Way, take_turns
from linnaeus.files import point_link

PLAIN, DURABLE, RAW = "torch.save", "torch.save + fsync + rename", "raw fallocate + pwrite + fsync"


def in_a_loop(settings: Settings) -> Iterator[Comparison]:
    """Save again and again, retention on, while every tensor changes in between."""
    for size in settings.sizes:
        with settings.directory() as root:
            yield _in_a_loop(size, training(size), root, settings.runs)


def _in_a_loop(size: str, run: Training, root: Path, runs: int) -> Comparison:
    state = run.state()

    def keeping(name: str, *, durable: bool, recycling: bool) -> Way:
        keeper = savers.KeepingSaver(root / name, durable=durable, recycling=recycling)
        keeper.fill(state)
        return Way(name, partial(keeper.save, state), run.touch)

    ways = [
        Way(PLAIN, partial(savers.torch_save, state, root / "plain.pth"), run.touch),
        keeping("linnaeus", durable=False, recycling=True),
        Way(DURABLE, partial(savers.torch_save_durably, state, root / "durable.pth"), run.touch),
        keeping("linnaeus, durable", durable=True, recycling=True),
        keeping("linnaeus, not recycling", durable=False, recycling=False),
        keeping("linnaeus, not recycling, durable", durable=True, recycling=False),
        Way("safetensors", partial(savers.safetensors_save, state, root / "a.safetensors"), run.touch),
        Way("DCP", partial(savers.dcp_save, state, root / "dcp", durable=False), run.touch),
        Way("DCP, durable", partial(savers.dcp_save, state, root / "dcp2", durable=True), run.touch),
    ]
    bars = [Bar("linnaeus", PLAIN, faster=5), Bar("linnaeus, durable", DURABLE, faster=2.5)]
    samples = take_turns(ways, runs)
    return Comparison(f"save in a training loop, {size}", "ms", samples, PLAIN, bars if size == MAIN else ())


def first(settings: Settings) -> Iterator[Comparison]:
    """Save into an empty directory."""
    for size in settings.main_sizes:
        with settings.directory() as root:
            yield _first(size, training(size).state(), root / "run", settings.runs)


def _first(size: str, state: dict[str, Any], directory: Path, runs: int) -> Comparison:
    path, prepare = directory / "a.pth", partial(savers.empty, directory)
    ways = [
        Way(DURABLE, partial(savers.torch_save_durably, state, path), prepare),
        Way("linnaeus, durable", partial(linnaeus.save, state, path), prepare),
        Way(RAW, partial(savers.raw_write, list(named_tensors(state).values()), path), prepare),
        Way("DCP, durable", partial(savers.dcp_save, state, directory / "dcp", durable=True), prepare),
        Way(PLAIN, partial(savers.torch_save, state, path), prepare),
        Way("linnaeus", partial(linnaeus.save, state, path, durable=False), prepare),
        Way("safetensors", partial(savers.safetensors_save, state, path), prepare),
    ]
    bars = [Bar("linnaeus, durable", DURABLE, faster=1.5), Bar("linnaeus, durable", RAW, at_most=1.2)]
    samples = take_turns(ways, runs)
    return Comparison(
        f"first save, empty directory, {size}", "ms", samples, DURABLE, bars if size == MAIN else ()
    )


def epoch_and_latest(settings: Settings) -> Iterator[Comparison]:
    """Save an epoch's file and name it the latest."""
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    state = training(size).state()
    with settings.directory() as root:
        directory = root / "run"
        prepare = partial(savers.empty, directory)
        ways = [
            Way("torch.save twice", partial(_torch_twice, state, directory), prepare),
            Way("linnaeus, epoch file", partial(_epoch, state, directory), prepare),
            Way("linnaeus, epoch file and latest", partial(_epoch_and_link, state, directory), prepare),
        ]
        bars = [Bar("linnaeus, epoch file and latest", "linnaeus, epoch file", at_most=1.1)]
        samples = take_turns(ways, settings.runs)
    bars = bars if size == MAIN else []
    yield Comparison(f"an epoch file and latest, {size}", "ms", samples, "torch.save twice", bars)


def _torch_twice(state: Any, directory: Path) -> None:
    torch.save(state, directory / "epoch.pth")
    torch.save(state, directory / "latest.pth")


def _epoch(state: Any, directory: Path) -> None:
    linnaeus.save(state, directory / "epoch.pth", durable=False)


def _epoch_and_link(state: Any, directory: Path) -> None:
    _epoch(state, directory)
    point_link(directory / "latest.pth", "epoch.pth")


def small_saves(settings: Settings) -> Iterator[Comparison]:
    """Save many small tensors into new files."""
    for count in settings.counts:
        with settings.directory() as root:
            yield _small_saves(count, root / "run", settings.runs)


def _small_saves(count: int, directory: Path, runs: int) -> Comparison:
    state, path, prepare = many_small(count), directory / "a.pth", partial(savers.empty, directory)
    ways = [
        Way(PLAIN, partial(savers.torch_save, state, path), prepare),
        Way("linnaeus", partial(linnaeus.save, state, path, durable=False), prepare),
        Way("safetensors", partial(savers.safetensors_save, state, path), prepare),
    ]
    bars = [Bar("linnaeus", PLAIN, faster=3)] if count >= 10_000 else []
    return Comparison(f"save {count:,} small tensors", "ms", take_turns(ways, runs), PLAIN, bars)
