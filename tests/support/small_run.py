"""A whole training run in milliseconds: every kind of part that a checkpoint holds, all random streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import linnaeus


class NoisySamples:
    """Numbers with noise from all three random streams, so that a wrong stream shows in every weight."""

    def __init__(self, num_samples: int = 20) -> None:
        self._inputs = torch.randn(num_samples, 4, generator=torch.Generator().manual_seed(11))

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(4) * 0.1 + random.random() + float(np.random.rand())
        x = self._inputs[index]
        return x + noise, x.sum().reshape(1)


class SmallRun:
    """Model with dropout and batch statistics, optimizer, schedule, averaged weights, scaler and loader."""

    def __init__(self, *, num_workers: int = 0, width: int = 8, seed: int = 3) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=30)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        self.loader = linnaeus.ResumableLoader(NoisySamples(), batch_size=4, seed=5, num_workers=num_workers)

    def parts(self) -> dict[str, Any]:
        """Return what a CheckpointManager takes."""
        names = ("model", "optimizer", "lr_scheduler", "ema", "scaler", "loader")
        return {name: getattr(self, name) for name in names}

    def learn(self, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        """Do one optimizer step and return the loss."""
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.model(inputs), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.lr_scheduler.step()
        self.ema.update_parameters(self.model)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Return everything that must be bit-identical after a resume."""
        states = {name: part.state_dict() for name, part in self.parts().items()}
        drawn = {"torch": torch.rand(2), "python": random.random(), "numpy": float(np.random.rand())}
        return states | {"drawn": drawn}


def config(directory: Path, **settings: Any) -> linnaeus.Config:
    """Return a config of a run in a directory; settings like KEEP_LAST_N or RESUME find their section."""
    train = {key: settings.pop(key) for key in [*settings] if key in linnaeus.Config().TRAIN}
    plain: Mapping[str, Any] = {
        "ENV": {
            "INPUT": {"CACHE_DIR": str(directory.parent / "cache")},
            "OUTPUT": {"DIRS": {"CHECKPOINTS": str(directory)}},
        },
        "TRAIN": {"EPOCHS": 3} | train,
        "SCHEDULE": {"CHECKPOINT": settings},
    }
    return linnaeus.Config.from_plain(plain)


def train(
    cfg: linnaeus.Config,
    run: SmallRun,
    *,
    stop_after: int | None = None,
    watch: Callable[[linnaeus.CheckpointManager], None] = lambda _: None,
) -> linnaeus.CheckpointManager:
    """Train as a user would: resume, then go on to the end, or up to a step to stop in the middle of.

    Args:
        cfg: The run's config.
        run: Its parts, fresh.
        stop_after: The optimizer step after which to leave, as if the process had ended.
        watch: Called after each step, before a stop.
    """
    ckpt = linnaeus.CheckpointManager(cfg, **run.parts())
    progress = ckpt.resume()
    for _ in range(progress.epoch, cfg.TRAIN.EPOCHS):
        losses = []
        for batch in run.loader:
            losses.append(run.learn(batch))
            ckpt.step()
            watch(ckpt)
            if ckpt.progress.step == stop_after:
                ckpt.wait()
                return ckpt
        ckpt.end_epoch({"loss": sum(losses)} if losses else None)
    ckpt.close()
    return ckpt
