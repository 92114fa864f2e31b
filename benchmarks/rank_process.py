"""One rank of a job that is measured; `benchmarks._ranks` starts as many as there are.

    python -m torch.distributed.run … -m benchmarks.rank_process TASK DIRECTORY RUNS

Each number is the slowest rank's. Rank 0 writes what was seen to `seen.json`. Saves are durable on all sides.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import linnaeus
from linnaeus import pth
from linnaeus.distributed import join
from linnaeus.files import recycle
from linnaeus.state import RunParts, capture_share, own_share, restore, tensors_in

dcp: Any = checkpoint  # what it exports is not declared
OURS, OVER, DCP = "linnaeus", "linnaeus, blocks of a pruned file", "DCP, cached plans"
SHARDED = "linnaeus, FORMAT: sharded"
CHECKED, DCP_LOAD = "linnaeus, every byte verified first", "DCP"
OF_SHARDS, OF_SHARDS_CHECKED = "linnaeus, FORMAT: sharded", "linnaeus, FORMAT: sharded, verified first"
BESIDE, BESIDE_SHARDED, DCP_ASYNC = "linnaeus", "linnaeus, FORMAT: sharded", "DCP async_save"
_WIDTH, _NUM_LAYERS = 1010, 28  # with AdamW's two moments 343 MB


def _nothing() -> None:
    """Prepare nothing."""


class Turn(NamedTuple):
    """What all ranks do, timed; and what rank 0 does before, untimed."""

    act: Callable[[], object]
    prepare: Callable[[], object] = _nothing


class Job:
    """A sharded model with an optimizer that has state, and the ways of keeping both."""

    def __init__(self, directory: Path) -> None:
        torch.manual_seed(0)
        self.model: Any = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_NUM_LAYERS)))
        for layer in self.model:
            fully_shard(layer)
        fully_shard(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.learn()
        self.parts = RunParts(model=self.model, optimizer=self.optimizer)
        self.group = join("bench", deadline_seconds=120)
        self.directory, self.path = directory, directory / "together.pth"
        self.shards = directory / "together.sharded"
        self.planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
        self.over = directory / "over.pth"
        self.pending: list[Any] = []
        self.ckpts: list[linnaeus.CheckpointManager] = []

    def learn(self) -> None:
        """Do one step."""
        self.model(torch.randn(2, _WIDTH)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def saves(self) -> dict[str, Turn]:
        """Save one `.pth` from all ranks, or a sharded directory."""
        return {
            OURS: Turn(lambda: self._save(self.path), lambda: self.path.unlink(missing_ok=True)),
            DCP: Turn(self._save_dcp, lambda: shutil.rmtree(self.directory / "dcp", ignore_errors=True)),
            OVER: Turn(self._save_over),
            SHARDED: Turn(self._save_sharded, lambda: shutil.rmtree(self.shards, ignore_errors=True)),
        }

    def resumes(self) -> dict[str, Turn]:
        """Read each rank's part, of what any number of ranks wrote."""
        return {
            DCP_LOAD: Turn(self._load_dcp),
            OURS: Turn(lambda: self._load(self.path, check=False)),
            CHECKED: Turn(lambda: self._load(self.path, check=True)),
            OF_SHARDS: Turn(lambda: self._load(self.shards, check=False)),
            OF_SHARDS_CHECKED: Turn(lambda: self._load(self.shards, check=True)),
        }

    def besides(self) -> dict[str, Turn]:
        """What training waits for when a save begins."""
        self.ckpts = [self._manager(form) for form in ("pth", "sharded")]
        self.dcp_group: Any = dist.new_group(backend="gloo")
        ours = zip((BESIDE, BESIDE_SHARDED), self.ckpts, strict=True)
        return {DCP_ASYNC: Turn(self._save_async), **{name: Turn(ckpt.step) for name, ckpt in ours}}

    def _manager(self, form: str) -> linnaeus.CheckpointManager:
        plan = {"INTERVAL_STEPS": 1, "KEEP_LAST_N": 2, "FORMAT": form, "EXIT_SIGNALS": "[]"}
        settings = [f"SCHEDULE.CHECKPOINT.{key}={value}" for key, value in plan.items()]
        settings.append(f"ENV.OUTPUT.DIRS.CHECKPOINTS={self.directory}/run_{form}")
        cfg = linnaeus.load_config(None, settings)
        ckpt = linnaeus.CheckpointManager(cfg, model=self.model, optimizer=self.optimizer)
        ckpt.save()
        return ckpt

    def finish(self) -> None:
        """Wait for what goes on in the background."""
        while self.pending:
            self.pending.pop().result()
        for ckpt in self.ckpts:
            ckpt.wait()

    def _save(self, path: Path, recycled: Any = None) -> None:
        state, shares = capture_share(self.parts, self.group)
        pth.save_together(state, path, shares=shares, ranks=self.group, recycled=recycled)

    def _save_over(self) -> None:
        """Save as a run does that prunes: over the blocks of a file that nobody needs any more."""
        found = self.group.rank == 0 and self.over.exists()
        self._save(self.over, recycle(self.over, self.over.stat().st_ino) if found else None)

    def _save_sharded(self) -> None:
        state, shares = capture_share(self.parts, self.group)
        pth.save_sharded(state, self.shards, shares=shares, ranks=self.group)

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def _save_dcp(self) -> None:
        writer = dcp.FileSystemWriter(self.directory / "dcp")
        dcp.save(self._state(), storage_writer=writer, planner=self.planner)

    def _save_async(self) -> None:
        from torch.distributed.checkpoint.state_dict_saver import async_save

        place = self.directory / "dcp_async"
        self.pending.append(async_save(self._state(), checkpoint_id=place, process_group=self.dcp_group))

    def _load(self, path: Path, *, check: bool) -> None:
        """Read as a run does that resumes, of a directory first what tells which part is this rank's."""
        if check:
            self.group.decide_once("is it whole", lambda: pth.verify(path).error is None)
        with pth.mapped_file(path) as source:
            saved = source.content
            source.ready(tensors_in({key: saved[key] for key in saved if key not in ("model", "optimizer")}))
            own = own_share(self.parts, saved, str(path), self.group.rank, self.group.world_size)
            restore(self.parts, own, str(path), complete=False, source=source)

    def _load_dcp(self) -> None:
        state = self._state()
        dcp.load(state, checkpoint_id=self.directory / "dcp")
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )


def take_turns(job: Job, turns: dict[str, Turn], runs: int) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds and extra MB of each turn of each way, those of the slowest and largest rank."""
    seen: dict[str, dict[str, list[float]]] = {name: {"ms": [], "mb": []} for name in turns}
    for number in range(runs + 1):
        for name, turn in turns.items():
            if dist.get_rank() == 0:
                turn.prepare()
                os.sync()
            dist.barrier()
            found = torch.tensor(_measured(turn.act), dtype=torch.float64)
            dist.all_reduce(found, dist.ReduceOp.MAX)
            if number:  # the first is for warming up
                seen[name]["ms"].append(found[0].item())
                seen[name]["mb"].append(found[1].item())
            job.finish()
    return seen


def _measured(act: Callable[[], object]) -> tuple[float, float]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _memory("VmRSS")
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3, (_memory("VmHWM") - before) / 1e6


def _memory(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return int(lines[name].split()[0]) * 1024


def main(task: str, directory: Path, runs: int) -> None:
    """Measure on this rank; rank 0 writes down what was seen."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo")
    job = Job(directory)
    seen = take_turns(job, getattr(job, task)(), runs)
    if task == "resumes":  # and leave what the next number of ranks resumes from
        for turn in map(job.saves().__getitem__, (OURS, DCP, SHARDED)):
            if job.group.rank == 0:
                turn.prepare()
            dist.barrier()
            turn.act()
    if job.group.rank == 0:
        (directory / "seen.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch may abort where a process group's threads outlive the interpreter


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
