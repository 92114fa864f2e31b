"""`CheckpointManager`, the one object that a training loop holds.

It joins saving and resuming, and decides nothing itself.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from linnaeus import pth
from linnaeus.config import Config
from linnaeus.errors import ConfigError, SaveError
from linnaeus.files import write_text
from linnaeus.pretrained import report_of
from linnaeus.resolving import resolve
from linnaeus.resuming import Choice, choose
from linnaeus.runs import REPORT_NAME
from linnaeus.saving import Retention, Saver, Schedule
from linnaeus.state import Progress, RunParts, restore

_log = logging.getLogger(__name__)

_OPTIMIZING = frozenset({"optimizer", "lr_scheduler", "scaler"})


class CheckpointManager:
    """Saves a run as it is configured and brings it back exactly.

        ckpt = CheckpointManager(cfg, model=model, optimizer=optimizer, loader=loader)
        progress = ckpt.resume()
        for epoch in range(progress.epoch, cfg.TRAIN.EPOCHS):
            for batch in loader:
                ...                    # forward, backward, optimizer.step()
                ckpt.step()            # after each optimizer step; saves when one is due
            ckpt.end_epoch({"loss": loss})
        ckpt.close()

    Args:
        cfg: `SCHEDULE.CHECKPOINT` says when to save and what to keep, `ENV.OUTPUT.DIRS.CHECKPOINTS` where,
            `TRAIN.AUTO_RESUME` and `TRAIN.RESUME` what to go on from.
        model: The model; data-parallel and compile wrappers are seen through.
        optimizer: One, or a list or dict of several; likewise the other parts. Each part needs
            `state_dict()` and `load_state_dict()`.
        lr_scheduler: The learning-rate scheduler.
        scaler: The gradient scaler of mixed precision.
        ema: Averaged weights, for example `torch.optim.swa_utils.AveragedModel`.
        loader: What batches come from; `linnaeus.ResumableLoader` or anything that tells its position.
        clock: Returns seconds, monotonic; decides when minutes have passed.

    Raises:
        ConfigError: A part can't be saved, or the configuration can't be followed.
        SaveError: The directory can't be written.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        model: nn.Module,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        loader: Any = None,
        clock: Any = time.monotonic,
    ) -> None:
        self._cfg = cfg
        self._parts = RunParts(
            model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, scaler=scaler, ema=ema, loader=loader
        )
        plan = cfg.SCHEDULE.CHECKPOINT
        self._schedule = Schedule(
            plan.INTERVAL_EPOCHS, plan.INTERVAL_STEPS, plan.INTERVAL_MINUTES, cfg.TRAIN.EPOCHS
        )
        rules = Retention(
            plan.KEEP_LAST_N, plan.KEEP_TOP_N, plan.KEEP_EVERY_N_EPOCHS, metric=plan.METRIC, mode=plan.MODE
        )
        directory = Path(cfg.ENV.OUTPUT.DIRS.CHECKPOINTS).absolute()
        self._saver = Saver(directory, rules, check_finite=plan.CHECK_FINITE)
        self.lineage: dict[str, Any] = {}
        """Where the weights come from, in JSON values.

        Kept in every checkpoint and handed on when resuming. `pretrained` is the report of what was loaded
        into the model, which is found on the model.
        """
        self._told_of: object = None
        self.last_saved: Path | None = None
        """The newest checkpoint that this process made."""
        self._clock = clock
        self._saved_at = clock()
        self._metrics: dict[str, float] = {}
        self.progress = Progress()
        _refuse_what_is_missing(cfg)
        self._saver.prepare()

    @property
    def directory(self) -> Path:
        """Where this run's checkpoints are."""
        return self._saver.directory

    def resume(self) -> Progress:
        """Bring the run back to where its newest valid checkpoint left it, if there is one.

        Which one and why, and why newer ones were passed over, is logged.

        Returns:
            The progress to go on from; that of a fresh start when there is nothing to resume.

        Raises:
            CheckpointInvalidError: There are checkpoints, and none is usable.
            CheckpointNotFoundError: `TRAIN.RESUME` can't be had.
            ResumeMismatchError: The checkpoint holds other parts than this run; nothing was changed.
        """
        train = self._cfg.TRAIN
        choice = choose(
            self.directory,
            auto=train.AUTO_RESUME,
            named=train.RESUME,
            resolve=lambda name: resolve(name, self._cfg),
        )
        if choice is None:
            _log.info("fresh start: %s holds no checkpoint", self.directory)
            return self.progress
        self._restore(choice)
        self._saved_at = self._clock()
        return self.progress

    def _restore(self, choice: Choice) -> None:
        with pth.mapped_file(choice.path) as source:
            saved = source.content
            saved = saved if isinstance(saved, dict) and "model" in saved else {"model": saved}
            missing = restore(
                self._parts,
                saved,
                str(choice.path),
                complete="progress" in saved,
                skip=_left_alone(self._cfg),
                source=source,
            )
        self.progress = Progress.from_checkpoint(saved, choice.path)
        self.lineage = dict(choice.checkpoint.lineage)
        # What was loaded into the model before is no more there.
        self._told_of = report_of(self._parts.model)
        if choice.path.parent != self.directory:
            self.lineage["resumed_from"] = self._cfg.TRAIN.RESUME
        _log.info(
            "resumed from %s (%s): epoch %d, step %d",
            choice.path,
            choice.reason,
            self.progress.epoch,
            self.progress.step,
        )
        if missing:
            _log.warning("%s holds no %s: these start fresh", choice.path.name, ", ".join(missing))

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count one optimizer step, and save if one is due.

        Call it after each `optimizer.step()`, when schedulers and averages have been updated too.

        Args:
            metrics: What was measured; kept with the checkpoint.

        Raises:
            SaveError: A save was due and failed; all older checkpoints are untouched.
        """
        self._note(metrics)
        self.progress = self.progress.after_step()
        if self._schedule.due_after_step(self.progress.step, self._clock() - self._saved_at):
            self.save()

    def end_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count one completed epoch, and save if one is due. The end of the last epoch is always saved.

        Args:
            metrics: What was measured, by name; retention ranks by one of them.

        Raises:
            SaveError: A save was due and failed; all older checkpoints are untouched.
        """
        self._note(metrics)
        self.progress = self.progress.after_epoch()
        if self._schedule.due_after_epoch(self.progress.epoch):
            self.save()
        self._metrics = {}  # a later save inside the next epoch must not be ranked by this one's

    def save(self) -> Path:
        """Save now, due or not, and return the file.

        Raises:
            SaveError: It failed; all older checkpoints are untouched.
        """
        progress = self.progress
        self._tell_of_pretrained()
        protected = [] if progress.resumed_from is None else [progress.resumed_from]
        path = self._saver.save(
            self._content(),
            self._about(),
            epoch=progress.epoch,
            step=progress.step,
            inside_epoch=progress.step_in_epoch > 0,
            protected=protected,
        )
        self._saved_at = self._clock()
        self.last_saved = path
        return path

    def _tell_of_pretrained(self) -> None:
        """Take what was loaded into the model into the lineage, and write it beside the checkpoints, once."""
        report = report_of(self._parts.model)
        if report is None or report is self._told_of:
            return
        self._told_of = report
        self.lineage["pretrained"] = report.to_plain()
        path = self.directory / REPORT_NAME
        try:
            write_text(path, json.dumps(self.lineage["pretrained"], indent=1))
        except OSError as error:
            raise SaveError(path=str(path), problem=f"the report of a load: {error.strerror}") from error

    def close(self) -> None:
        """Finish. No save is pending: each is complete when the call that made it returns."""
        self._saver.close()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, metrics: Mapping[str, float] | None) -> None:
        # Tensors and numpy numbers become plain ones here, so that any reader can rank by them.
        self._metrics |= {name: float(value) for name, value in (metrics or {}).items()}

    def _content(self) -> dict[str, Any]:
        return self._parts.capture() | {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "progress": self.progress.to_plain(),
            "metrics": dict(self._metrics),
            "config": self._cfg.to_plain(),
        }

    def _about(self) -> dict[str, Any]:
        return {
            **self.progress.to_plain(),
            "metrics": self._metrics,
            "config_digest": self._cfg.digest(),
            "config": self._cfg.to_plain(),
            "lineage": self.lineage,
        }


def _left_alone(cfg: Config) -> frozenset[str]:
    """Return the parts that the user wants fresh instead of restored."""
    if cfg.TRAIN.RESUME_SKIP_OPTIMIZER:
        return _OPTIMIZING
    return frozenset() if cfg.TRAIN.PRESERVE_CHECKPOINT_SCHEDULE else frozenset({"lr_scheduler"})


def _refuse_what_is_missing(cfg: Config) -> None:
    if cfg.ENV.OUTPUT.BUCKET.ENABLED:
        raise ConfigError(
            field="ENV.OUTPUT.BUCKET.ENABLED",
            expected="uploading while training is not part of this version;"
            " set it to false and send checkpoints with: linnaeus upload FILE",
        )
