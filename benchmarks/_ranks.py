"""Several ranks: saving and resuming against torch's own, a lost rank, what an agreement takes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from benchmarks._settings import Settings
from benchmarks._timing import Bar, Comparison, Sample
from benchmarks.agreement import count_operations
from benchmarks.rank_process import BESIDE, CHECKED, DCP, DCP_ASYNC, DCP_LOAD, OURS, OVER

_ROOT = Path(__file__).resolve().parent.parent
_MAX_EXTRA_MB = 64
_CHAIN = (4, 4, 2, 1, 4)
_STAGES = ("begin", "writing", "written", "end")
_DEADLINE_SECONDS = 3.0
_WORLD_SIZES = (2, 16, 256, 4096)

Seen = dict[str, dict[str, list[float]]]


def _run(task: str, world_size: int, directory: Path, runs: int) -> Seen:
    """Let so many ranks do a task, and return what they saw."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(world_size), "-m", "benchmarks.rank_process", task, str(directory), str(runs)]
    done = subprocess.run(command, cwd=_ROOT, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{world_size} ranks failed at {task}:\n{done.stderr[-4000:]}")
    found: Seen = json.loads((directory / "seen.json").read_text())
    return found


def _environment(**more: str) -> dict[str, str]:
    found = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
    return found | {"PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests'}"} | more


def _samples(seen: Seen, unit: str) -> dict[str, Sample]:
    return {name: Sample(tuple(values[unit])) for name, values in seen.items()}


def saves(settings: Settings) -> Iterator[Comparison]:
    """Save 343 MB from four sharded ranks into one file, against a sharded directory that is no such file."""
    with settings.directory() as root:
        seen = _run("saves", 4, root, settings.runs)
        consolidating = []
        for _ in range(settings.runs):
            (root / "whole.pt").unlink(missing_ok=True)
            os.sync()
            start = time.perf_counter()
            dcp_to_torch_save(root / "dcp", root / "whole.pt")
            consolidating.append((time.perf_counter() - start) * 1e3)
    samples = _samples(seen, "ms") | {"dcp_to_torch_save, which DCP's needs": Sample(tuple(consolidating))}
    bars = [Bar(OURS, DCP, faster=2), Bar(OVER, DCP, faster=2)]
    yield Comparison("4 sharded ranks save 343 MB", "ms", samples, DCP, bars)
    memory = _samples(seen, "mb")
    bars = [Bar(OURS, at_most=_MAX_EXTRA_MB), Bar(OVER, at_most=_MAX_EXTRA_MB)]
    yield Comparison("extra memory of the largest rank meanwhile", "MB", memory, DCP, bars)


def resumes(settings: Settings) -> Iterator[Comparison]:
    """Resume what other numbers of ranks saved: by 4, 2, 1 and 4 again."""
    with settings.directory() as root:
        _run("saves", _CHAIN[0], root, 1)
        for before, world_size in itertools.pairwise(_CHAIN):
            samples = _samples(_run("resumes", world_size, root, settings.runs), "ms")
            bars = [Bar(way, DCP_LOAD, faster=2) for way in (OURS, CHECKED)]
            title = f"ranks that resume: {world_size}, of what {before} saved, 343 MB"
            yield Comparison(title, "ms", samples, DCP_LOAD, bars)


def beside(settings: Settings) -> Iterator[Comparison]:
    """Time what training on four sharded ranks waits for when a save begins."""
    with settings.directory() as root:
        samples = _samples(_run("besides", 4, root, settings.runs), "ms")
    yield Comparison("4 sharded ranks stand still for one save, 343 MB", "ms", samples, DCP_ASYNC)
    assert BESIDE in samples  # noqa: S101 - the name that tables show


def lost(settings: Settings) -> Iterator[Comparison]:
    """Kill one of three ranks at each stage of a save: how long until all others have raised, naming it."""
    seen: dict[str, list[float]] = {}
    for stage in _STAGES:
        for victim in (0, 1):
            if victim and stage == "end":
                continue  # rank 0 alone ends the file
            with settings.directory() as root:
                seen[f"rank {victim} killed: {stage}"] = [_lose(root, victim, stage)]
    samples = {name: Sample(tuple(values)) for name, values in seen.items()}
    bars = [Bar(name, at_most=_DEADLINE_SECONDS + 2) for name in samples]
    title = f"a rank is killed in a save, deadline {_DEADLINE_SECONDS:g} s: the others have raised, naming it"
    yield Comparison(title, "s", samples, next(iter(samples)), bars)


def _lose(directory: Path, victim: int, stage: str) -> float:
    """Return how long the slower of the others took; infinity if one did not name the victim."""
    scenario = f"dies:{victim}:{stage}:killed"
    with _ranks(3, "support.rank_process", str(directory), scenario) as started:
        for rank, process in enumerate(started):
            if rank != victim:
                process.wait(timeout=90)
    others = [rank for rank in range(3) if rank != victim]
    told: list[Any] = [json.loads((directory / f"met_{rank}.json").read_text()) for rank in others]
    times = [json.loads((directory / f"took_{rank}.json").read_text()) for rank in others]
    return float(max(times)) if told == [[victim]] * 2 else float("inf")


@contextmanager
def _ranks(world_size: int, module: str, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start ranks without a launcher that ends all when one dies; the store outlives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    command, started = [sys.executable, "-m", module, *arguments], []
    try:
        for rank in range(world_size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            env = _environment(**at, **own, GROUP_RANK="0")
            started.append(subprocess.Popen(command, cwd=_ROOT, env=env, stderr=subprocess.DEVNULL))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def agreement(settings: Settings) -> Iterator[Comparison]:
    """Count what one agreement asks of the store, of jobs of up to 4,096 ranks, by every rank's own code."""
    sizes = _WORLD_SIZES[:-1] if settings.sizes == ["10 MB"] else _WORLD_SIZES
    counted = {size: count_operations(size) for size in sizes}
    first = {f"rank 0 of {size:,}": Sample((float(found[0]),)) for size, found in counted.items()}
    most = {f"any rank of {size:,}": Sample((float(max(found)),)) for size, found in counted.items()}
    bars = [Bar(name, at_most=6 + 2 * _levels(size)) for name, size in zip(most, sizes, strict=True)]
    bars += [Bar(name, at_most=6 + 2 * _levels(size)) for name, size in zip(first, sizes, strict=True)]
    reference = next(iter(first))
    yield Comparison("store operations of one agreement", "operations", first | most, reference, bars)


def _levels(world_size: int) -> int:
    """Return the levels of the tree: the logarithm to its fan-out of 16."""
    return next(level for level in range(1, 9) if 16**level >= world_size)
