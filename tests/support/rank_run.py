"""A small run that several ranks train together: plain, data-parallel or fully sharded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import linnaeus
from support.small_run import NoisySamples, config


class RankRun:
    """Uneven layers, so that shards differ; dropout, so that streams show; every kind of part.

    Args:
        parallel: "none", "ddp", "fsdp", or "columns" for weights that ranks have columns of.
        seed: Of the initial weights and streams; a resumed run is given another one on purpose.
    """

    def __init__(self, parallel: str, *, seed: int = 3, width: int = 13, batch_size: int = 4) -> None:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(seed)  # the same weights everywhere
        self.model: Any = nn.Sequential(
            nn.Linear(4, width), nn.LayerNorm(width), nn.Dropout(0.3), nn.Linear(width, 3), nn.Linear(3, 1)
        )
        for number, seeder in enumerate((torch.manual_seed, random.seed, np.random.seed)):
            seeder(seed * 1000 + rank * 10 + number)  # and streams of each rank's own
        if parallel == "ddp":
            # Else the second step sums gradients in another order than the first, in every process anew.
            self.model = DistributedDataParallel(self.model, find_unused_parameters=True)
        elif parallel == "fsdp":
            fully_shard(self.model[0])
            fully_shard(self.model)
        elif parallel == "columns":
            mesh = init_device_mesh("cpu", (world_size,))
            distribute_module(self.model, mesh, _in_columns)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.02)
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=30)
        self.loader = linnaeus.ResumableLoader(
            NoisySamples(24), batch_size=batch_size, seed=5, rank=rank, world_size=world_size
        )

    def manager(
        self, directory: Path, *, bucket: Mapping[str, Any] | None = None, **settings: Any
    ) -> linnaeus.CheckpointManager:
        """Return what saves it, and copies it to a bucket if one is given."""
        parts = ("model", "optimizer", "lr_scheduler", "loader")
        cfg = config(directory, **{"EPOCHS": 2, "DEADLINE_SECONDS": 30.0} | settings)
        if bucket is not None:
            plain = cfg.to_plain()
            plain["ENV"]["OUTPUT"]["BUCKET"] = dict(bucket)
            cfg = linnaeus.Config.from_plain(plain)
        return linnaeus.CheckpointManager(cfg, **{name: getattr(self, name) for name in parts})

    def train(self, directory: Path, *, stop_after: int | None = None, **settings: Any) -> None:
        """Resume, then go on to the end, or leave after a step as if the process had ended."""
        ckpt = self.manager(directory, **settings)
        progress = ckpt.resume()
        for _ in range(progress.epoch, 2):
            for batch in self.loader:
                self._step(*batch)
                ckpt.step()
                if ckpt.progress.step == stop_after:
                    ckpt.close()
                    return
            ckpt.end_epoch({"loss": 1.0})
        ckpt.close()

    def finish(self, epoch: int) -> None:
        """Train on to the end, and save nothing."""
        for _ in range(epoch, 2):
            for batch in self.loader:
                self._step(*batch)

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(inputs), targets).backward()
        self.optimizer.step()
        self.lr_scheduler.step()

    def state(self) -> dict[str, Any]:
        """Return everything of this rank that must be bit-identical after a resume, shards as they are."""
        named = {
            f"{name}.{key}": local(value)
            for name, parameter in self.model.named_parameters()
            for key, value in {"": parameter, **self.optimizer.state[parameter]}.items()
        }
        drawn = {"torch": torch.rand(3), "python": random.random(), "numpy": float(np.random.rand())}
        return (
            named | drawn | {"loader": self.loader.state_dict(), "schedule": self.lr_scheduler.state_dict()}
        )

    def whole(self) -> dict[str, torch.Tensor]:
        """Return every tensor of model and optimizer, gathered."""
        return {
            f"{name.removeprefix('module.')}.{key}": full(value)
            for name, parameter in self.model.named_parameters()
            for key, value in {"": parameter, **self.optimizer.state[parameter]}.items()
        }


def _in_columns(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        placement = Shard(1) if parameter.dim() > 1 else Replicate()
        spread = distribute_tensor(parameter.detach(), mesh, [placement])
        module.register_parameter(name, nn.Parameter(spread))


def local(value: Any) -> Any:
    """Return a copy of a rank's own part."""
    tensor = value.to_local() if isinstance(value, DTensor) else value
    return tensor.detach().clone()


def full(value: Any) -> torch.Tensor:
    """Return a copy of the whole."""
    tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return tensor.detach().clone()


def equal(a: Any, b: Any) -> bool:
    """Tell whether two states are the same bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)
