"""Reading: verification against the speed of reading at all, and loading many small tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import linnaeus
from benchmarks._settings import MAIN, Settings
from benchmarks._states import many_small, training
from benchmarks._timing import Bar, Comparison, Way, take_turns

_PIECE_BYTES = 1 << 20
# Reads of a few milliseconds vary more than saves do.
_READS_PER_RUN = 3
# Above it each turn of torch takes many seconds, and more ways tell nothing more.
_MANY = 10_000


def pread_all(path: Path, num_threads: int) -> None:
    """Read a whole file, each thread an equal part of it, into a buffer of its own."""
    size_bytes = path.stat().st_size
    share = -(-size_bytes // num_threads)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(num_threads) as threads:
            parts = range(0, size_bytes, share)
            list(threads.map(lambda start: _pread(descriptor, start, min(start + share, size_bytes)), parts))
    finally:
        os.close(descriptor)


def _pread(descriptor: int, start: int, end: int) -> None:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while start < end:
        start += os.preadv(descriptor, [buffer[: end - start]], start)


def verification(settings: Settings) -> Iterator[Comparison]:
    """Verify files whose bytes are in memory."""
    for size in settings.main_sizes:
        with settings.directory() as root:
            path = root / "a.pth"
            linnaeus.save(training(size).state(), path)
            yield _content(size, path, settings.runs * _READS_PER_RUN)
    yield _structure(settings)


def _content(size: str, path: Path, runs: int) -> Comparison:
    cores = os.cpu_count() or 1
    limit = f"pread, {cores} threads"
    ways = [
        Way(limit, partial(pread_all, path, cores)),
        Way("verify content", partial(linnaeus.verify, path)),
        Way("pread, 1 thread", partial(pread_all, path, 1)),
    ]
    # 0.8 of the speed is 1.25 times the time.
    bars = [Bar("verify content", limit, at_most=1.25)] if size == MAIN else []
    return Comparison(f"verify content, {size}, warm", "ms", take_turns(ways, runs), limit, bars)


def _structure(settings: Settings) -> Comparison:
    with settings.directory() as root:
        few, many, large = root / "few.pth", root / "many.pth", root / "large.pth"
        linnaeus.save(many_small(100), few)
        linnaeus.save(many_small(10_000), many)
        linnaeus.save({name: torch.zeros(1 << 18) for name in many_small(100)}, large)
        ways = [
            Way("100 tensors", partial(linnaeus.verify, few, content=False)),
            Way("100 tensors of 1 MB", partial(linnaeus.verify, large, content=False)),
            Way("10,000 tensors", partial(linnaeus.verify, many, content=False)),
        ]
        bars = [Bar("100 tensors", at_most=1), Bar("100 tensors of 1 MB", "100 tensors", at_most=1.5)]
        samples = take_turns(ways, settings.runs * _READS_PER_RUN)
    return Comparison("verify structure, warm", "ms", samples, "100 tensors", bars)


def small_loads(settings: Settings) -> Iterator[Comparison]:
    """Load many small tensors."""
    for count in settings.counts:
        with settings.directory() as root:
            yield _small_loads(count, root, settings.runs)


def _small_loads(count: int, root: Path, runs: int) -> Comparison:
    state, ours, theirs, plain = many_small(count), root / "a.pth", root / "b.pth", root / "c.safetensors"
    linnaeus.save(state, ours)
    torch.save(state, theirs)
    save_file(state, plain)
    del state
    mapped = "torch.load, mmap"
    ways = [
        Way(mapped, partial(torch.load, theirs, mmap=True)),
        Way("linnaeus", partial(linnaeus.load, ours)),
        Way("linnaeus, reading", partial(linnaeus.load, ours, mmap=False)),
        Way("safetensors", partial(load_file, plain)),
    ]
    if count <= _MANY:
        ways.append(Way("torch.load", partial(torch.load, theirs)))
        ways.append(Way("torch.load, mmap, linnaeus' file", partial(torch.load, ours, mmap=True)))
    bars = [Bar("linnaeus", mapped, faster=5)] if count >= 10_000 else []
    return Comparison(f"load {count:,} small tensors", "ms", take_turns(ways, runs), mapped, bars)
