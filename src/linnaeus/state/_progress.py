"""How far a run has come."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TRAINING = "train"
VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come; a value, replaced at every step.

    Attributes:
        epoch: Epochs completed, so also the index of the one under way.
        step: Optimizer steps done since the start of the run.
        step_in_epoch: Optimizer steps done in the epoch under way.
        stage: "train", or "validation" when the epoch's training is done and it is being validated.
        pending_validations: Those still to be done in this epoch, the one under way first.
        completed_validations: Those done in this epoch.
        partial: How far the validation under way has come, as whoever does it said; plain values.
        resumed_from: The checkpoint this process went on from; None for a fresh start.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    stage: str = TRAINING
    pending_validations: tuple[str, ...] = ()
    completed_validations: tuple[str, ...] = ()
    partial: Mapping[str, Any] = field(default_factory=dict)
    resumed_from: Path | None = None

    @property
    def in_validation(self) -> bool:
        """Whether the training of the epoch under way is done."""
        return self.stage == VALIDATION

    def after_step(self) -> Progress:
        """Return the progress one optimizer step later."""
        return replace(self, step=self.step + 1, step_in_epoch=self.step_in_epoch + 1)

    def after_epoch(self) -> Progress:
        """Return the progress when the epoch under way is completed."""
        return replace(
            self,
            epoch=self.epoch + 1,
            step_in_epoch=0,
            stage=TRAINING,
            pending_validations=(),
            completed_validations=(),
            partial={},
        )

    def validating(self, names: Sequence[str]) -> Progress:
        """Return the progress when the epoch's training is done and these validations are to come."""
        return replace(self, stage=VALIDATION, pending_validations=tuple(names), completed_validations=())

    def inside_validation(self, partial: Mapping[str, Any]) -> Progress:
        """Return the progress when the validation under way has come this far."""
        return replace(self, partial=copy.deepcopy(dict(partial)))  # it may go on to change there

    def after_validation(self, name: str) -> Progress:
        """Return the progress when one validation is completed."""
        return replace(
            self,
            pending_validations=tuple(one for one in self.pending_validations if one != name),
            completed_validations=(*self.completed_validations, name),
            partial={},
        )

    def to_plain(self) -> dict[str, Any]:
        """Return what is stored in a checkpoint."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "step_in_epoch": self.step_in_epoch,
            "stage": self.stage,
            "pending_validations": list(self.pending_validations),
            "completed_validations": list(self.completed_validations),
            "partial": dict(self.partial),
        }

    @classmethod
    def from_checkpoint(cls, saved: Mapping[str, Any], path: Path) -> Progress:
        """Return the progress that a checkpoint records.

        Checkpoints of earlier linnaeus versions name the epoch that was just trained, counted from 0, and the
        steps `iteration`; ours count completed epochs.
        """
        if "progress" in saved:
            return cls._from_plain(saved["progress"], path)
        older = "step" not in saved and (
            "iteration" in saved or "training_progress" in saved or path.name.startswith("ckpt_")
        )
        epoch = int(saved.get("epoch", 0)) + (1 if older else 0)
        return cls(epoch=epoch, step=int(saved.get("step", saved.get("iteration", 0))), resumed_from=path)

    @classmethod
    def _from_plain(cls, plain: Mapping[str, Any], path: Path) -> Progress:
        return cls(
            epoch=int(plain["epoch"]),
            step=int(plain["step"]),
            step_in_epoch=int(plain["step_in_epoch"]),
            stage=str(plain.get("stage", TRAINING)),
            pending_validations=tuple(plain.get("pending_validations", ())),
            completed_validations=tuple(plain.get("completed_validations", ())),
            partial=dict(plain.get("partial", {})),
            resumed_from=path,
        )
