"""Several ranks save and resume one state, against torch's own distributed checkpoints.

`python -m benchmarks.ranks` starts them. Each number is the slowest rank's. Saves are durable on both sides,
and go into an empty directory unless blocks of a pruned file are written over.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from linnaeus import pth
from linnaeus.distributed import join
from linnaeus.files import recycle
from linnaeus.state import RunParts, capture_share, own_share, restore

dcp: Any = checkpoint  # what it exports is not declared
_WIDTH, _NUM_LAYERS = 1010, 28  # with AdamW's two moments 343 MB
_MIB = 1 << 20


class Ranks:
    """A sharded model with an optimizer that has state, and the two ways of keeping both."""

    def __init__(self, directory: Path) -> None:
        torch.manual_seed(0)
        self.model: Any = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_NUM_LAYERS)))
        for layer in self.model:
            fully_shard(layer)
        fully_shard(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.model(torch.randn(2, _WIDTH)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.parts = RunParts(model=self.model, optimizer=self.optimizer)
        self.group = join("bench", deadline_seconds=120)
        self.directory, self.path = directory, directory / "together.pth"
        self.planner = dcp.DefaultSavePlanner(enable_plan_caching=True)

    def remove(self) -> None:
        """Leave nothing of what was saved before."""
        self.path.unlink(missing_ok=True)

    def remove_dcp(self) -> None:
        """Leave nothing of what torch saved before."""
        shutil.rmtree(self.directory / "dcp", ignore_errors=True)

    def save(self) -> None:
        """Save one `.pth` from all ranks."""
        state, shares = capture_share(self.parts, self.group)
        pth.save_together(state, self.path, shares=shares, ranks=self.group)

    def save_again(self) -> None:
        """Save as a run does that prunes: over the blocks of a file that nobody needs any more."""
        first = self.group.rank == 0
        spare = recycle(self.path, self.path.stat().st_ino) if first and self.path.exists() else None
        state, shares = capture_share(self.parts, self.group)
        pth.save_together(state, self.path, shares=shares, ranks=self.group, recycled=spare)

    def save_dcp(self) -> None:
        """Save as torch does, its plans cached."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        state = {"model": model, "optimizer": optimizer}
        writer = dcp.FileSystemWriter(self.directory / "dcp")
        dcp.save(state, storage_writer=writer, planner=self.planner)

    def load(self, *, check: bool = False) -> None:
        """Read this rank's part of the file; check all of it first, on rank 0, as a resumed run does."""
        if check:
            self.group.decide_once("is it whole", lambda: pth.verify(self.path).error is None)
        with pth.mapped_file(self.path) as source:
            own = own_share(
                self.parts, source.content, str(self.path), self.group.rank, self.group.world_size
            )
            restore(self.parts, own, str(self.path), complete=False, source=source)

    def load_dcp(self) -> None:
        """Read as torch does, with resharding."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        state = {"model": model, "optimizer": optimizer}
        dcp.load(state, checkpoint_id=self.directory / "dcp")
        set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer)


def measured(
    act: Callable[[], object], runs: int, prepare: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return milliseconds and extra MiB of the slowest and largest rank, after a turn for warming up."""
    seconds, peaks = [], []
    for number in range(runs + 1):
        if dist.get_rank() == 0:
            prepare()
        os.sync()
        dist.barrier()
        before = _memory("VmRSS", reset=True)
        start = time.perf_counter()
        act()
        found = torch.tensor([time.perf_counter() - start, _memory("VmHWM") - before], dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        if number:
            seconds.append(found[0].item())
            peaks.append(found[1].item())
    return {"ms": round(statistics.median(seconds) * 1e3, 1), "mib": round(max(peaks) / _MIB, 1)}


def _memory(name: str, *, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def on_rank(directory: Path, runs: int, *, save: bool) -> None:
    """Measure on this rank; rank 0 writes down what was seen."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo")
    ranks, seen = Ranks(directory), {}
    if save:
        seen["save, linnaeus, new blocks"] = measured(ranks.save, runs, ranks.remove)
        seen["save, linnaeus, blocks of a pruned file"] = measured(ranks.save_again, runs)
        seen["save, DCP, cached plans"] = measured(ranks.save_dcp, runs, ranks.remove_dcp)
    seen["resume, DCP"] = measured(ranks.load_dcp, runs)
    seen["resume, linnaeus"] = measured(ranks.load, runs)
    seen["resume, linnaeus, every byte checked"] = measured(lambda: ranks.load(check=True), runs)
    if dist.get_rank() == 0:
        (directory / f"seen_{dist.get_world_size()}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch may abort where a process group's threads outlive the interpreter


def main() -> None:
    """Start ranks for each size of a job, and show what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--on-rank", type=Path)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 2, 1])
    asked = parser.parse_args()
    if asked.on_rank:
        on_rank(asked.on_rank, asked.runs, save=asked.save)
        return
    directory = Path(tempfile.mkdtemp(dir=Path(__file__).parent / "results", prefix=".running-"))
    try:
        for number, size in enumerate(asked.sizes):
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            task = [str(size), "-m", "benchmarks.ranks", "--on-rank", str(directory)]
            more = ["--runs", str(asked.runs), *([] if number else ["--save"])]
            subprocess.run([*launch, *task, *more], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            for name, found in json.loads((directory / f"seen_{size}.json").read_text()).items():
                print(f"{size} ranks  {name:40} {found['ms']:9.1f} ms  {found['mib']:7.1f} MiB")  # noqa: T201
        start = time.perf_counter()
        dcp_to_torch_save(directory / "dcp", directory / "whole.pt")
        print(f"dcp_to_torch_save, which the .pth does not need: {time.perf_counter() - start:.2f} s")  # noqa: T201
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
