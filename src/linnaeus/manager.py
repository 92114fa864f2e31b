"""`CheckpointManager`, the one object that a training loop holds.

It joins saving and resuming, and decides nothing itself.
"""

from __future__ import annotations

import copy
import logging
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from linnaeus.config import Config
from linnaeus.distributed import Rhythm, join
from linnaeus.errors import RemoteError
from linnaeus.pretrained import report_of
from linnaeus.resolving import resolve_together
from linnaeus.resuming import Choice, bring_back, choose_together, needed_files
from linnaeus.runs import checkpoint_name
from linnaeus.saving import (
    SAVE,
    Account,
    Job,
    JointPipeline,
    OnSave,
    Saver,
    SignalWatch,
    StoppedBySignal,
    Timing,
    Trace,
    acts_here,
    open_mirror,
    pipeline_of,
    share_now,
    write_report,
)
from linnaeus.state import (
    Progress,
    RunParts,
    Share,
    Snapshot,
    SpareMemory,
    hooked_optimizers,
    take_snapshot,
)

_log = logging.getLogger(__name__)


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
        self._account = Account(on_save, plan.GRACE_SECONDS)
        self._timing = Timing(plan, cfg.TRAIN.EPOCHS, self._account, clock)
        self._watch = SignalWatch(plan.EXIT_SIGNALS, plan.SAVE_SIGNALS)
        weakref.finalize(self, self._watch.stop)  # a run that was not closed must not swallow signals
        self.lineage: dict[str, Any] = {}
        """Where the weights come from, handed on when resuming; `pretrained` tells what was loaded."""
        self._group = join("saving", deadline_seconds=plan.DEADLINE_SECONDS)
        self._rhythm = Rhythm(self._group, clock)
        directory = Path(cfg.ENV.OUTPUT.DIRS.CHECKPOINTS).absolute()
        acts = acts_here(plan, directory, self._group)
        mirror = self._mirror = open_mirror(cfg, directory, lambda: self._run, self._group, acts=acts)
        self._saver = Saver(directory, plan, on_commit=mirror.notice, owed=mirror.owed, acts=acts)
        run = self._group, self._parts
        self._pipeline = pipeline_of(*run, self._saver, self._job, plan, self._account, clock)
        self._spare = SpareMemory()
        self._told_of: object = None
        self._plain_config, self._digest = cfg.to_plain(), cfg.digest()
        self._metrics: dict[str, float] = {}
        self.progress = Progress()
        ready = self._saver.prepare if acts else lambda: None
        new_id = lambda _: uuid.uuid4().hex  # noqa: E731 - which tells this run's files from those of others
        self._run: str = self._group.agree("preparing the directory", ready, conclude=new_id, alike=True)
        self._trace = Trace(self.directory)
        release = lambda *_: self._pipeline.release()  # noqa: E731 - a method would be called with the step's
        self._hooks = [one.register_step_pre_hook(release) for one in hooked_optimizers(self._parts)]

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

        Returns:
            The progress to go on from; that of a fresh start when there is nothing to resume.

        Raises:
            CheckpointInvalidError: There are checkpoints, and none is usable.
            CheckpointNotFoundError: `TRAIN.RESUME` can't be had.
            ResumeMismatchError: The checkpoint holds other parts than this run; nothing was changed.
        """
        train = self._cfg.TRAIN
        choice = choose_together(
            self._group,
            self.directory,
            auto=train.AUTO_RESUME,
            named=train.RESUME,
            resolve=lambda name: resolve_together(name, self._cfg, self._group),
            bucket=self._mirror.remote(),
            needed=lambda path: needed_files(self._parts, path, self._group),
        )
        if choice is None:
            _log.info("fresh start: %s holds no checkpoint", self.directory)
            return self.progress
        self._group.agree(f"resuming from {choice.path.name}", lambda: self._restore(choice))
        self._mirror.notice()  # what an earlier process of this run, now known which, had no time to send
        if choice.checkpoint.write_seconds is not None:
            self._account.compare_with_grace(choice.checkpoint.write_seconds)
        self._account.lost = self._trace.lost(self.progress.step, choice.checkpoint.saved_at)
        self._timing.restart()
        return self.progress

    def _restore(self, choice: Choice) -> None:
        self.progress, metrics = bring_back(self._parts, choice, self._cfg.TRAIN, self._group)
        self._metrics, self.lineage = dict(metrics), dict(choice.checkpoint.lineage)
        # What was loaded into the model before is no more there.
        self._told_of = report_of(self._parts.model)
        if choice.path.parent != self.directory:
            self.lineage["resumed_from"] = self._cfg.TRAIN.RESUME
        else:
            self._run = choice.checkpoint.run or self._run

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
        if self._group.roles.is_first:
            self._trace.note(self.progress.step)
        self._reach(self._timing.due_at_step(self.progress.step), by_time=self._timing.due_by_time())

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
        self._reach(self._timing.due_after_epoch(self.progress.epoch))
        self._metrics = {}  # a later save inside the next epoch must not be ranked by this one's

    def validations(self, *names: str) -> Iterator[str]:
        """Yield the validations that are to be done in this epoch, after its training and before `end_epoch`.

            if not ckpt.progress.in_validation:    # a run that was stopped in validation goes on there
                train_one_epoch(...)
            for name in ckpt.validations("clean", "shifted"):
                ckpt.validated(name, evaluate(name))
            ckpt.end_epoch()

        The run is saved before the first and after each but the last (`AT_VALIDATION`), so that a kill
        costs at most the one under way.

        Args:
            names: All of an epoch's validations, in their order.

        Raises:
            SaveError: An earlier save failed.
        """
        if not self.progress.in_validation:
            self.progress = self.progress.validating(names)
            self._reach(self._cfg.SCHEDULE.CHECKPOINT.AT_VALIDATION)
        for name in self.progress.pending_validations:
            yield name
            if name in self.progress.pending_validations:
                self.validated(name)

    def validated(self, name: str, metrics: Mapping[str, float] | None = None) -> None:
        """Count a validation as completed.

        Args:
            name: One of those given to `validations`.
            metrics: What was measured; kept until `end_epoch`, also over a resume.

        Raises:
            SaveError: An earlier save failed.
        """
        self._note(metrics)
        self.progress = self.progress.after_validation(name)
        more = self.progress.pending_validations
        self._reach(bool(more) and self._cfg.SCHEDULE.CHECKPOINT.AT_VALIDATION)

    def validation_step(self, partial: Mapping[str, Any] | None = None) -> None:
        """Call this now and then inside a validation, where a run can then be saved, or stopped by a signal.

        `partial` is how far it has come, plain values, found again in `progress.partial`. Raises SaveError.
        """
        if partial is not None:
            self.progress = self.progress.inside_validation(partial)
        self._reach(due=False, by_time=self._timing.due_by_time())

    def _reach(self, due: bool, *, by_time: bool = False) -> None:  # noqa: FBT001 - the main question here
        self._watch.start()
        self._pipeline.poll()
        # Clocks and signals are each rank's own, so what they ask for is agreed on.
        wish = self._watch.wish(by_time=by_time or self._pipeline.wishes_to_save)
        asked = self._rhythm.strongest(self.progress.step, wish)
        if due or asked == SAVE:
            self._begin_saving()
        if asked > SAVE:
            self._end(asked - SAVE)

    def _end(self, number: int) -> None:
        _log.warning("signal %d: saving, and then ending", number)
        self._pipeline.save_now()
        try:
            self.close(within_seconds=self._cfg.SCHEDULE.CHECKPOINT.GRACE_SECONDS)
        except RemoteError as error:  # what was saved is on this disk
            _log.warning("%s", error)
        raise StoppedBySignal(number)

    def save(self) -> Path:
        """Save now, due or not, wait until it is on disk, and return the file; raises SaveError."""
        path = self._pipeline.save_now()
        self._timing.saved()
        return path

    def _tell_of_pretrained(self) -> None:
        """Take what was loaded into the model into the lineage, and write it beside the checkpoints, once."""
        report = report_of(self._parts.model)
        if report is None or report is self._told_of:
            return
        self._told_of = report
        self.lineage["pretrained"] = report.to_lineage()
        if self._group.roles.is_first:
            write_report(self.directory, report.to_text())

    def wait(self) -> None:
        """Wait until the save under way, if there is one, is on disk; raises SaveError."""
        self._pipeline.finish()

    def before_mutation(self) -> None:
        """Call this before changing parameters or optimizer state outside an optimizer's step.

        For example before weights are clipped, swapped with averaged ones, or loaded. A save under way reads
        them where they are; when this returns, it no longer does. Optimizers given to this manager do it by
        themselves before each step. A change without it is noticed, and the save is done again.
        """
        self._pipeline.release()

    def close(self, *, within_seconds: float | None = None) -> None:
        """Finish: wait for the save under way, and `within_seconds` for the bucket; give back what was held.

        Raises:
            RemoteError: Not all has arrived at the bucket; it says what has not, and how to send it.
            SaveError: The last save failed; all older checkpoints are untouched.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        try:
            self._pipeline.close()
            if self._group.roles.is_first:
                self._trace.remove()
        finally:
            self._watch.stop()
            self._account.conclude()
            self._mirror.close(within_seconds)
        self._saver.retain_again()  # what had to wait for the bucket

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
            self._timing.saved()

    def _job(self, by_copy: bool) -> Job:  # noqa: FBT001 - the pipeline's only question
        """Return what there is to save now."""
        plan = self._cfg.SCHEDULE.CHECKPOINT
        if isinstance(self._pipeline, JointPipeline):
            how = self._numbers(), self._spare, self._group, plan, self._tell_of_pretrained
            return self._named(None, share_now(self._parts, *how, copy=by_copy))
        self._tell_of_pretrained()
        if not plan.ASYNC:  # nothing changes while training waits
            return self._named(Snapshot(self._parts.capture() | self._numbers()))
        by_copy = by_copy or plan.CHECK_FINITE  # which reads the values in its own time
        return self._named(take_snapshot(self._parts, self._numbers(), self._spare, copy=by_copy))

    def _named(self, snapshot: Snapshot | None, share: Share | None = None) -> Job:
        progress = self.progress
        step, form = progress.step if progress.step_in_epoch else None, self._cfg.SCHEDULE.CHECKPOINT.FORMAT
        name = checkpoint_name(progress.epoch, step, form)
        source = progress.resumed_from
        protected = {} if source is None else {source.name: "this run was resumed from it"}
        return Job(self.directory / name, progress.step, snapshot, self._about(), protected, share)

    def _numbers(self) -> dict[str, Any]:
        return {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "progress": self.progress.to_plain(),
            "metrics": dict(self._metrics),
            "config": self._plain_config,
        }

    def _about(self) -> dict[str, Any]:
        progress = self.progress.to_plain()
        del progress["partial"]  # may be more than JSON can hold
        source = self.progress.resumed_from
        return {
            **progress,
            # What is known in the middle of validating must not be ranked.
            "metrics": {} if self.progress.in_validation else dict(self._metrics),
            "run": self._run,
            "config_digest": self._digest,
            "config": self._plain_config,
            # The report is long, and nobody's to change.
            "lineage": {k: v if k == "pretrained" else copy.deepcopy(v) for k, v in self.lineage.items()},
            "resumed_from": None if source is None else source.name,
            "saving": self._account.to_plain(),
        }
