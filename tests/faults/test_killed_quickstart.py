"""The quickstart, killed at random instants or asked to end, goes on to the same bits.

`LINNAEUS_KILLED_RUNS` and `LINNAEUS_TERMINATED_RUNS` say how many runs are put through it; few by default.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import linnaeus
from linnaeus.runs import list_checkpoints
from linnaeus.training import train
from support.file_calls import in_child
from support.trees import same

QUICKSTART = Path(linnaeus.__file__).parents[2] / "configs" / "quickstart.yaml"
NUM_KILLED = int(os.environ.get("LINNAEUS_KILLED_RUNS", "2"))
NUM_TERMINATED = int(os.environ.get("LINNAEUS_TERMINATED_RUNS", "2"))
LAST = "checkpoint_epoch_1.pth"
NUM_STEPS = 23  # 1,437 images in batches of 64

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.timeout(3600),
    # Newer Pythons warn of forking beside threads; the children use none of their parent's.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def config(directory: Path) -> linnaeus.Config:
    """Return the quickstart, one epoch of it, with augmentation, averages and a save every third step."""
    settings = (
        "TRAIN.EPOCHS=1",
        "TRAIN.BATCH_SIZE=64",
        "DATA.SHIFT=1",
        "TRAIN.EMA_DECAY=0.9",
        "SCHEDULE.CHECKPOINT.INTERVAL_STEPS=3",
        f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}",
    )
    return linnaeus.load_config(QUICKSTART, settings)


class Noting:
    """Notes each step in a file at once, so that it is known however the process ends."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)

    def on_start(self, *_: Any) -> None:
        """Begin."""

    def on_step(self, progress: Any, _: float) -> None:
        """Note it."""
        os.pwrite(self._descriptor, struct.pack("q", progress.step), 0)

    def on_epoch(self, *_: Any) -> None:
        """End."""


def run_on(directory: Path) -> Callable[[], object]:
    """Return the act of starting the run (again); it ends with the status that it exits with."""

    def act() -> None:
        try:
            train(config(directory), observer=Noting(directory.with_suffix(".steps")))
        except SystemExit as stopped:
            os._exit(int(str(stopped.code)))

    return act


def final_state(directory: Path) -> Any:
    """Return what the run's last checkpoint holds of the training, which draws from torch alone."""
    saved = linnaeus.load(directory / LAST, mmap=False)
    state = {key: saved[key] for key in ("model", "optimizer", "lr_scheduler", "ema", "data", "step")}
    return state | {"rng": saved["rng"]["torch"]}


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The final state of a run that nobody stopped."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert in_child(run_on(directory)) == 0
    assert noted(directory) == NUM_STEPS
    return final_state(directory)


def noted(directory: Path) -> int:
    """Return the last step that a run has noted."""
    steps = directory.with_suffix(".steps")
    content = steps.read_bytes() if steps.exists() else b""
    return int(struct.unpack("q", content)[0]) if content else 0


def start(directory: Path, number: int, after_steps: int, after_seconds: float) -> int:
    """Run it in a child that gets a signal soon after a step; return how it ended.

    By steps, since no machine is as fast as it was a moment ago.
    """
    pid = os.fork()
    if pid == 0:
        run_on(directory)()
        os._exit(0)
    while noted(directory) < after_steps:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    time.sleep(after_seconds)
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed_at_any_instant_it_ends_with_the_same_bits(tmp_path: Path, never_stopped: Any) -> None:
    """SIGKILL at random instants: every run that is started again ends as one that never was killed."""
    stream = random.Random(int(os.environ.get("LINNAEUS_SEED", "7")))
    killed = 0
    for number in range(NUM_KILLED):
        directory = tmp_path / str(number)
        instant = stream.randint(0, NUM_STEPS - 3), stream.uniform(0, 0.05)
        killed += start(directory, signal.SIGKILL, *instant) == -signal.SIGKILL
        assert all(linnaeus.verify(found.path).ok for found in list_checkpoints(directory))
        assert in_child(run_on(directory)) == 0
        assert same(final_state(directory), never_stopped), number
    assert killed


def test_asked_to_end_it_loses_no_step(tmp_path: Path, never_stopped: Any) -> None:
    """SIGTERM at random instants: status 143 with the last step saved, and the same bits in the end."""
    stream = random.Random(int(os.environ.get("LINNAEUS_SEED", "8")))
    stopped = 0
    for number in range(NUM_TERMINATED):
        directory = tmp_path / str(number)
        instant = stream.randint(1, NUM_STEPS // 2), stream.uniform(0, 0.02)
        status = start(directory, signal.SIGTERM, *instant)
        assert status in (0, 143)
        if status == 143:
            stopped += 1
            assert list_checkpoints(directory)[0].step >= noted(directory)
        assert in_child(run_on(directory)) == 0
        assert same(final_state(directory), never_stopped), number
    assert stopped
