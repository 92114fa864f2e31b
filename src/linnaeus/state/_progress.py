"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come; a value, replaced at every step.

    Attributes:
        epoch: Epochs completed, so also the index of the one under way.
        step: Optimizer steps done since the start of the run.
        step_in_epoch: Optimizer steps done in the epoch under way.
        resumed_from: The checkpoint this process went on from; None for a fresh start.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    resumed_from: Path | None = None

    def after_step(self) -> Progress:
        """Return the progress one optimizer step later."""
        return replace(self, step=self.step + 1, step_in_epoch=self.step_in_epoch + 1)

    def after_epoch(self) -> Progress:
        """Return the progress when the epoch under way is completed."""
        return replace(self, epoch=self.epoch + 1, step_in_epoch=0)

    def to_plain(self) -> dict[str, int]:
        """Return what is stored in a checkpoint."""
        return {"epoch": self.epoch, "step": self.step, "step_in_epoch": self.step_in_epoch}

    @classmethod
    def from_checkpoint(cls, saved: Mapping[str, Any], path: Path) -> Progress:
        """Return the progress that a checkpoint records.

        Checkpoints of earlier linnaeus versions name the epoch that was just trained, counted from 0, and the
        steps `iteration`; ours count completed epochs.
        """
        if "progress" in saved:
            known = {key: int(saved["progress"][key]) for key in ("epoch", "step", "step_in_epoch")}
            return cls(**known, resumed_from=path)
        older = "step" not in saved and (
            "iteration" in saved or "training_progress" in saved or path.name.startswith("ckpt_")
        )
        epoch = int(saved.get("epoch", 0)) + (1 if older else 0)
        return cls(epoch=epoch, step=int(saved.get("step", saved.get("iteration", 0))), resumed_from=path)
