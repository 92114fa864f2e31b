"""Sixteen processes on two nodes ask for one name: how often it is downloaded, and when all have it.

The nodes are network namespaces with a link between them; the bucket's server stands on one of them and
counts what it serves. Bytes and requests are exact; milliseconds are those of 16 processes on the cores that
there are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import linnaeus
from benchmarks._settings import NotMeasuredError, Settings
from benchmarks._timing import Bar, Comparison, Sample
from benchmarks.rank_fetch_process import ALONE, APART, EACH, NAME, PER_JOB, SHARED, Seen

_ROOT = Path(__file__).resolve().parent.parent
_SIZE_BYTES = 100_000_000
_DOWNLOADS = {APART: 2, EACH: 2, PER_JOB: 1, SHARED: 1}


def fetches(settings: Settings) -> Iterator[Comparison]:
    """Ask for one name of 100 MB, alone and as 16 processes, on caches that nodes have or share."""
    with settings.directory() as root, _support("two_nodes").two_nodes() as nodes:
        if isinstance(nodes, str):
            raise NotMeasuredError(f"two nodes take network namespaces, which are not allowed here: {nodes}")
        seen = ask_on_two_nodes(nodes, root, _SIZE_BYTES, settings.runs)
        size = (root / NAME).stat().st_size
    what = f"16 processes on 2 nodes ask for one name, {size / 1e6:.0f} MB"
    bars = [Bar(name, at_most=most) for name, most in _DOWNLOADS.items()]
    served = _column(seen, lambda one: one.bytes_served / size)
    requests = _column(seen, lambda one: one.num_requests)
    took = _column(seen, lambda one: one.milliseconds)
    yield Comparison(f"{what}: bytes served", "x file", served, ALONE, bars)
    yield Comparison(f"{what}: requests of any kind", "", requests, ALONE)
    yield Comparison(f"{what}: until all have it", "ms", took, ALONE)


def _column(seen: dict[str, list[Seen]], of: Any) -> dict[str, Sample]:
    return {name: Sample(tuple(float(of(one)) for one in values)) for name, values in seen.items()}


def ask_on_two_nodes(nodes: Any, directory: Path, size_bytes: int, runs: int) -> dict[str, list[Seen]]:
    """Let eight processes on each node ask for a name, in every case of `CASES`.

    Args:
        nodes: A `TwoNodes` of the tests.
        directory: Where the file is made under its name, and `caches` are those of the last case.
        size_bytes: Of the file, about.
        runs: How often each case has its turn.

    Returns:
        What was seen, by the names of the cases.
    """
    noise = torch.randn(size_bytes // 4, generator=torch.Generator().manual_seed(0))
    linnaeus.save({"model": {"w": noise}}, directory / NAME)
    address = _support("two_nodes").ADDRESSES[0]
    arguments = ["-m", "benchmarks.rank_fetch_process", str(directory), str(runs), address]
    started = []
    try:
        for node in range(2):
            with (directory / f"said_{node}").open("wb") as said:
                started.append(nodes.start(node, arguments, _environment(), said))
        codes = [process.wait(timeout=120 + 60 * runs) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    if any(codes):
        raise RuntimeError("".join((directory / f"said_{node}").read_text()[-4000:] for node in range(2)))
    found = json.loads((directory / "seen.json").read_text())
    return {name: [Seen(*one) for one in values] for name, values in found.items()}


def _environment() -> dict[str, str]:
    paths = f"{_ROOT}{os.pathsep}{_ROOT / 'tests'}"
    more = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": paths}
    return {**os.environ, **more}


def _support(name: str) -> Any:
    """Return a module of what tests share, which is no package of its own."""
    if (tests := str(_ROOT / "tests")) not in sys.path:
        sys.path.append(tests)
    return import_module(f"support.{name}")
