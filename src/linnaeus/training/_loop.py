"""The loop: train, evaluate, save; and go on where a checkpoint left off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from linnaeus.config import Config
from linnaeus.distributed import join
from linnaeus.errors import ConfigError
from linnaeus.manager import CheckpointManager
from linnaeus.models import build_model
from linnaeus.pretrained import LoadReport, load_together, remember
from linnaeus.state import Progress, ResumableLoader
from linnaeus.training._data import Data, Images, load_data
from linnaeus.training._options import DataOptions, TrainOptions, read_options
from linnaeus.training._parallel import is_sharded, parallelized, ranks, take_shards

_EVALUATION_BATCH = 256


class Observer(Protocol):
    """Is told how training goes."""

    def on_start(self, num_steps: int, progress: Progress, report: LoadReport | None) -> None:
        """Training begins, or goes on, from `progress` towards `num_steps` steps altogether."""

    def on_step(self, progress: Progress, loss: float) -> None:
        """One optimizer step is done."""

    def on_epoch(
        self,
        epoch: int,
        num_epochs: int,
        metrics: Mapping[str, float],
        seconds: float,
        checkpoint: Path | None,
    ) -> None:
        """One epoch is done and evaluated; `checkpoint` is the newest file, which may be under way still."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How training ended.

    Last metrics, progress, newest checkpoint, and what pretrained weights were loaded.
    """

    metrics: Mapping[str, float]
    progress: Progress
    checkpoint: Path | None
    report: LoadReport | None


@dataclass(slots=True)
class _Run:
    """What is being trained, and by what."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    ema: AveragedModel | None
    loader: ResumableLoader
    data: Data
    device: torch.device
    precision: torch.dtype


def train(cfg: Config, *, observer: Observer | None = None) -> TrainResult:
    """Train the model of a config on its data, from its pretrained weights or its newest checkpoint.

    Args:
        cfg: Sections MODEL, DATA and TRAIN say what and how, `SCHEDULE.CHECKPOINT` when to save.
        observer: Is told how it goes.

    Raises:
        ConfigError: The config can't be followed.
        LinnaeusError: Weights can't be loaded, or a checkpoint neither saved nor resumed.
    """
    data_options, options = read_options(cfg)
    with ranks(options.PARALLEL) as (rank, world_size):
        torch.manual_seed(options.SEED)
        return _train(cfg, options, _prepare(cfg, options, data_options, rank, world_size), observer)


def _train(cfg: Config, options: TrainOptions, run: _Run, observer: Observer | None) -> TrainResult:
    observer = observer if run.loader.rank == 0 else None  # of several ranks one tells
    ckpt = CheckpointManager(
        cfg,
        model=run.model,
        optimizer=run.optimizer,
        lr_scheduler=run.scheduler,
        scaler=run.scaler,
        ema=run.ema,
        loader=run.loader,
    )
    progress = ckpt.resume()
    report = None
    if progress.resumed_from is None:
        report = _start_from_pretrained(cfg, run, options.SEED)
    if observer:
        observer.on_start(options.EPOCHS * len(run.loader), progress, report)
    metrics: dict[str, float] = {}
    for epoch in range(progress.epoch, options.EPOCHS):
        started = time.monotonic()
        if not ckpt.progress.in_validation:  # a run that was stopped in validation goes on there
            for loss in _epoch(run):
                ckpt.step()
                if observer:
                    observer.on_step(ckpt.progress, loss)
        for name in ckpt.validations("held_out"):
            metrics = _evaluate(run, ckpt.validation_step)
            ckpt.validated(name, metrics)
        ckpt.end_epoch()
        if observer:
            seconds = time.monotonic() - started
            observer.on_epoch(epoch + 1, options.EPOCHS, metrics, seconds, ckpt.newest)
    ckpt.close()
    return TrainResult(
        metrics or _evaluate(run), ckpt.progress, ckpt.last_saved or progress.resumed_from, report
    )


def _prepare(cfg: Config, options: TrainOptions, source: DataOptions, rank: int, world_size: int) -> _Run:
    data = load_data(source)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.DEVICE == "auto" else options.DEVICE
    )
    model = build_model(cfg).to(device)
    heads = dict(cfg.MODEL.get("HEADS") or {})
    if heads != data.num_classes:
        raise ConfigError(
            field="MODEL.HEADS", expected=f"this data has the ranks {data.num_classes}", value=heads
        )
    loader = ResumableLoader(
        data.train,
        batch_size=options.BATCH_SIZE,
        seed=options.SEED,
        num_workers=source.NUM_WORKERS,
        rank=rank,
        world_size=world_size,
    )
    decay = options.EMA_DECAY
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    if ema and options.PARALLEL == "fsdp":
        raise ConfigError(
            field="TRAIN.EMA_DECAY", expected="sharded weights are not averaged; should be null"
        )
    model = parallelized(model, options.PARALLEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.LR, weight_decay=options.WEIGHT_DECAY)
    num_steps = options.EPOCHS * len(loader)
    if world_size > 1:
        torch.manual_seed(options.SEED * 1_000_003 + rank)  # equal weights, and streams of each its own
    return _Run(
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(
            optimizer, _warmup_then_cosine(options.WARMUP_STEPS, num_steps)
        ),
        scaler=torch.amp.GradScaler(device.type) if options.PRECISION == "float16" else None,
        ema=ema,
        loader=loader,
        data=data,
        device=device,
        precision=getattr(torch, options.PRECISION),
    )


def _warmup_then_cosine(warmup_steps: int, num_steps: int) -> Any:
    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def _start_from_pretrained(cfg: Config, run: _Run, seed: int) -> LoadReport:
    model, group = _bare(run.model), join("pretrained")
    if is_sharded(model):
        whole = _whole(cfg, run.device, seed)
        report = load_together(cfg, whole, group)
        take_shards(model, whole)
        remember(model, report)
    else:
        report = load_together(cfg, model, group)
    if run.ema:
        run.ema.module.load_state_dict(model.state_dict())  # else the average would begin from random weights
    return report


def _whole(cfg: Config, device: torch.device, seed: int) -> nn.Module:
    """Return the model as it was before it was sharded, its fresh weights included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(cfg).to(device)


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _epoch(run: _Run) -> Iterator[float]:
    """Do the optimizer steps of one epoch, or of what is left of it; yield each one's loss."""
    run.model.train()
    for images, labels in run.loader:
        run.optimizer.zero_grad(set_to_none=True)
        loss = _loss(run, images, labels)
        if run.scaler:
            run.scaler.scale(loss).backward()
            run.scaler.step(run.optimizer)
            run.scaler.update()
        else:
            loss.backward()
            run.optimizer.step()
        run.scheduler.step()
        if run.ema:
            run.ema.update_parameters(_bare(run.model))
        yield loss.item()


def _loss(run: _Run, images: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over ranks of the cross-entropy; images are (batch, 1, height, width)."""
    with torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision is not torch.float32):
        logits = run.model(images.to(run.device))
    parts = [functional.cross_entropy(logits[rank].float(), labels[rank].to(run.device)) for rank in labels]
    return torch.stack(parts).mean()


@torch.no_grad()
def _evaluate(run: _Run, reached: Callable[[], None] | None = None) -> dict[str, float]:
    """Return loss and accuracy on the held-out images: of each rank, and as `accuracy` of the finest.

    Args:
        run: What is trained.
        reached: Called after each batch.
    """
    model = run.ema or _bare(run.model)
    model.eval()
    held_out: Images = run.data.validation
    outputs = []
    for part in held_out.images.split(_EVALUATION_BATCH):
        outputs.append(model(part.to(run.device)))
        if reached:
            reached()
    metrics: dict[str, float] = {}
    losses = []
    for rank, classes in held_out.labels.items():
        logits = torch.cat([output[rank] for output in outputs]).float().cpu()
        losses.append(functional.cross_entropy(logits, classes).item())
        metrics[f"accuracy_{rank}"] = (logits.argmax(1) == classes).float().mean().item()
    finest = next(iter(run.data.num_classes))
    return {"loss": sum(losses) / len(losses), "accuracy": metrics[f"accuracy_{finest}"], **metrics}
