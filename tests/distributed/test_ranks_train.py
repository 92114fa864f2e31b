"""The reference trainer on several ranks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from linnaeus import pth
from linnaeus.resuming import choose_newest
from support.processes import wait_until
from support.torchrun import ranks, torchrun

pytestmark = pytest.mark.slow


def test_trains_and_goes_on_in_another_way(tmp_path: Path) -> None:
    """Two sharded ranks train; two data-parallel ones go on from there, and know the same on both."""
    torchrun(2, tmp_path, "trains:fsdp:1", "trains:ddp:2")
    first, second = (json.loads((tmp_path / f"done_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.checkpoint.epoch == 2
    assert pth.describe(choice.path).about["resumed_from"].startswith("checkpoint_epoch_1")


def test_a_signal_on_one_rank_stops_all_at_one_step(tmp_path: Path) -> None:
    """SIGTERM reaches one rank alone: all save the same step together, and end with its status."""
    with ranks(2, tmp_path, "trains:ddp:1000") as started:
        wait_until(lambda: (tmp_path / "run").is_dir() and any((tmp_path / "run").glob("*.pth")), seconds=60)
        os.kill(int((tmp_path / "pid_1").read_text()), signal.SIGTERM)
        assert [process.wait(timeout=60) for process in started] == [128 + signal.SIGTERM] * 2
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.passed_over == ()
    assert not list((tmp_path / "run").glob(".*.tmp"))
