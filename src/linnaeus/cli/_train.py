"""`linnaeus train`: train as the config says, going on where the run was stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.cli._format import metrics_text, seconds_text
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.cli._bars import StepBar
    from linnaeus.pretrained import LoadReport
    from linnaeus.state import Progress
    from linnaeus.training import TrainResult

_EXAMPLE = """
linnaeus train --config configs/quickstart.yaml
linnaeus train --config configs/quickstart.yaml --set TRAIN.EPOCHS=3
"""


@command(
    "train",
    summary="Train the model of the config on its data.\n\n"
    "A run that was stopped, however it was, goes on from its newest valid checkpoint when the same command"
    " is given again, and ends as if it had never been stopped (TRAIN.AUTO_RESUME).",
    example=_EXAMPLE,
    lists=False,
)
def train(call: Call) -> None:
    """Train, and tell how it goes."""
    from linnaeus import saving, training

    with call.out.steps() as bar:
        teller = _Teller(call, bar)
        try:
            result = training.train(call.cfg, observer=teller)
        except (KeyboardInterrupt, saving.StoppedBySignal) as stopped:
            if bar:
                bar.stop()
            saved = "saved and stopped" if isinstance(stopped, saving.StoppedBySignal) else "stopped"
            call.out.warning(
                f"{saved}; checkpoints are in {_directory(call)}; the same command goes on from there"
            )
            raise
    if os.environ.get("RANK", "0") == "0":  # of several ranks one tells
        teller.conclude(result)


class _Teller:
    """Observes the training and shows it: a bar within the epoch on a terminal, and a line for each epoch."""

    def __init__(self, call: Call, bar: StepBar | None) -> None:
        self._call = call
        self._bar = bar
        self._num_epochs = call.cfg.TRAIN.EPOCHS
        self._steps_per_epoch: int | None = None
        self._started = time.monotonic()

    def on_start(self, num_steps: int, progress: Progress, report: LoadReport | None) -> None:
        """Tell where training begins."""
        out = self._call.out
        self._steps_per_epoch = num_steps // self._num_epochs or None
        if progress.resumed_from is None:
            out.line(f"{num_steps:,} steps in {self._num_epochs} epochs", mark="fresh start:", style="bold")
        else:
            at = f"at epoch {progress.epoch}, step {progress.step:,} of {num_steps:,}"
            out.line(f"{progress.resumed_from} {at}", mark="resumed from", style="bold")
        if report is not None and report.sources:
            from linnaeus.cli._reports import show_report

            show_report(out, report, mark="pretrained:")

    def on_step(self, progress: Progress, loss: float) -> None:
        """Move the bar."""
        if self._bar:
            label = f"epoch {progress.epoch + 1}/{self._num_epochs}"
            self._bar.update(label, done=progress.step_in_epoch, total=self._steps_per_epoch, loss=loss)

    def on_epoch(
        self,
        epoch: int,
        num_epochs: int,
        metrics: Mapping[str, float],
        seconds: float,
        checkpoint: Path | None,
    ) -> None:
        """Print the epoch's line."""
        if self._bar:
            self._bar.stop()
        width = len(str(num_epochs))
        saved = "" if checkpoint is None else f"  {checkpoint.name}"
        text = f"{epoch:>{width}}/{num_epochs}  {_measured(metrics)}  {seconds_text(seconds)}{saved}"
        self._call.out.line(text, mark="epoch", style="bold")

    def conclude(self, result: TrainResult) -> None:
        """Tell how it ended and where the result is."""
        out = self._call.out
        took = seconds_text(time.monotonic() - self._started)
        out.line(f"{_measured(result.metrics)} on held-out data, in {took}", mark="done:", style="bold green")
        if result.checkpoint is not None:
            out.line(str(result.checkpoint), mark="checkpoint:", style="bold")
            out.line(f"linnaeus inspect {result.checkpoint}", mark="look inside:", style="bold")


def _measured(metrics: Mapping[str, float]) -> str:
    """Return the metrics; `accuracy` alone says again what one of the ranks says."""
    by_rank = any(name.startswith("accuracy_") for name in metrics)
    return metrics_text(
        {name: value for name, value in metrics.items() if not (by_rank and name == "accuracy")}
    )


def _directory(call: Call) -> Path:
    return Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
