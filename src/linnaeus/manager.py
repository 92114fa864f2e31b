"""`CheckpointManager`, the one object that a training loop holds.

It joins saving and resuming, and decides nothing itself.
"""

from __future__ import annotations

import copy as copying
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
from linnaeus.runs import REPORT_NAME, checkpoint_name
from linnaeus.saving import Account, Job, OnSave, Pipeline, Policy, Retention, Saver, Schedule
from linnaeus.state import (
    Progress,
    RunParts,
    Snapshot,
    SpareMemory,
    hooked_optimizers,
    restore,
    take_snapshot,
)

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
        on_save: Called in the training thread after each save, with its record and the totals.
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
        on_save: OnSave | None = None,
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
        self._account = Account(on_save)
        self._saver = Saver(_directory(cfg), retention_of(cfg), check_finite=plan.CHECK_FINITE)
        self._pipeline = Pipeline(self._saver, self._job, _policy(cfg), self._account, clock)
        self._spare = SpareMemory()
        self.lineage: dict[str, Any] = {}
        """Where the weights come from, in JSON values.

        Kept in every checkpoint and handed on when resuming. `pretrained` is the report of what was loaded
        into the model, which is found on the model.
        """
        self._told_of: object = None
        self._plain_config, self._digest = cfg.to_plain(), cfg.digest()
        self._clock = clock
        self._saved_at = clock()
        self._metrics: dict[str, float] = {}
        self.progress = Progress()
        _refuse_what_is_missing(cfg)
        self._saver.prepare()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_optimizer_step)
            for optimizer in hooked_optimizers(self._parts)
        ]

    @property
    def directory(self) -> Path:
        """Where this run's checkpoints are."""
        return self._saver.directory

    @property
    def last_saved(self) -> Path | None:
        """The newest checkpoint that this process made, of those known to be on disk."""
        return self._pipeline.last_saved

    @property
    def newest(self) -> Path | None:
        """The checkpoint that is being written, else `last_saved`."""
        return self._pipeline.newest

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
        """Count one optimizer step, and begin to save if a save is due.

        Call it after each `optimizer.step()`, when schedulers and averages have been updated too.

        Args:
            metrics: What was measured; kept with the checkpoint.

        Raises:
            SaveError: An earlier save failed; all older checkpoints are untouched.
        """
        self._note(metrics)
        self.progress = self.progress.after_step()
        self._pipeline.poll()
        if self._schedule.due_after_step(self.progress.step, self._seconds_since_save()):
            self._begin_saving()

    def end_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count one completed epoch, and begin to save if a save is due.

        The end of the last epoch is always saved.

        Args:
            metrics: What was measured, by name; retention ranks by one of them.

        Raises:
            SaveError: An earlier save failed; all older checkpoints are untouched.
        """
        self._note(metrics)
        self.progress = self.progress.after_epoch()
        self._pipeline.poll()
        if self._schedule.due_after_epoch(self.progress.epoch):
            self._begin_saving()
        self._metrics = {}  # a later save inside the next epoch must not be ranked by this one's

    def save(self) -> Path:
        """Save now, due or not, wait until it is on disk, and return the file.

        Raises:
            SaveError: It failed; all older checkpoints are untouched.
        """
        path = self._pipeline.save_now()
        self._saved_at = self._clock()
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

    def wait(self) -> None:
        """Wait until the save under way, if there is one, is on disk.

        Raises:
            SaveError: It failed; all older checkpoints are untouched.
        """
        self._pipeline.finish()

    def before_mutation(self) -> None:
        """Call this before changing parameters or optimizer state outside an optimizer's step.

        For example before weights are clipped, swapped with averaged ones, or loaded. A save under way reads
        them where they are; when this returns, it no longer does. Optimizers given to this manager do it by
        themselves before each step. A change without it is noticed, and the save is done again.
        """
        self._pipeline.release()

    def close(self) -> None:
        """Finish: wait for the save under way, and give back what was held.

        Raises:
            SaveError: The last save failed; all older checkpoints are untouched.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        try:
            self._pipeline.close()
        finally:
            self._account.conclude()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, metrics: Mapping[str, float] | None) -> None:
        # Tensors and numpy numbers become plain ones here, so that any reader can rank by them.
        self._metrics |= {name: float(value) for name, value in (metrics or {}).items()}

    def _begin_saving(self) -> None:
        if self._pipeline.submit():
            self._saved_at = self._clock()

    def _seconds_since_save(self) -> float:
        seconds = float(self._clock() - self._saved_at)
        if seconds < 0:  # a clock that was set back: count from here
            self._saved_at, seconds = self._clock(), 0.0
        return seconds

    def _before_optimizer_step(self, *_: object) -> None:
        self._pipeline.release()

    def _job(self, copy: bool) -> Job:  # noqa: FBT001 - the pipeline's only question
        """Return what there is to save now."""
        self._tell_of_pretrained()
        progress, plan = self.progress, self._cfg.SCHEDULE.CHECKPOINT
        content = self._content()
        if plan.ASYNC:  # a check of the values reads them in its own time
            snapshot = take_snapshot(self._parts, content, self._spare, copy=copy or plan.CHECK_FINITE)
        else:
            snapshot = Snapshot(content)  # nothing changes while training waits
        name = checkpoint_name(progress.epoch, progress.step if progress.step_in_epoch > 0 else None)
        source = progress.resumed_from
        protected = {} if source is None else {source.name: "this run was resumed from it"}
        return Job(self.directory / name, progress.step, snapshot, self._about(), protected)

    def _content(self) -> dict[str, Any]:
        return self._parts.capture() | {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "progress": self.progress.to_plain(),
            "metrics": dict(self._metrics),
            "config": self._plain_config,
        }

    def _about(self) -> dict[str, Any]:
        source = self.progress.resumed_from
        return {
            **self.progress.to_plain(),
            "metrics": dict(self._metrics),
            "config_digest": self._digest,
            "config": self._plain_config,
            "lineage": copying.deepcopy(self.lineage),
            "resumed_from": None if source is None else source.name,
            "saving": self._account.to_plain(),
        }


def retention_of(cfg: Config) -> Retention:
    """Return the rules of a config on what to keep."""
    plan = cfg.SCHEDULE.CHECKPOINT
    return Retention(
        plan.KEEP_LAST_N,
        plan.KEEP_TOP_N,
        plan.KEEP_EVERY_N_EPOCHS,
        metric=plan.METRIC,
        mode=plan.MODE,
        keep_every_hours=plan.KEEP_EVERY_HOURS,
    )


def _directory(cfg: Config) -> Path:
    return Path(cfg.ENV.OUTPUT.DIRS.CHECKPOINTS).absolute()


def _policy(cfg: Config) -> Policy:
    plan = cfg.SCHEDULE.CHECKPOINT
    return Policy(
        is_async=plan.ASYNC,
        when_busy=plan.WHEN_BUSY,
        on_failure=plan.ON_FAILURE,
        deadline_seconds=plan.DEADLINE_SECONDS,
        hold_seconds=plan.HOLD_SECONDS,
    )


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
