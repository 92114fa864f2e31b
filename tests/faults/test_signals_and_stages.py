"""A run that is asked to end saves first, wherever it is; one that is stopped in validation goes on there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import linnaeus
from linnaeus.runs import list_checkpoints
from linnaeus.saving import StoppedBySignal
from support.small_run import SmallRun, config
from support.trees import same


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leave the signals as they were."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def manager(directory: Path, run: SmallRun, **settings: Any) -> linnaeus.CheckpointManager:
    """Return the manager of a run that saves by itself only at the ends of epochs."""
    return linnaeus.CheckpointManager(config(directory, **settings), **run.parts())


def train(
    directory: Path,
    *,
    signal_at: tuple[int, str] | None = None,
    number: int = signal.SIGTERM,
    **settings: Any,
) -> SmallRun:
    """Train with two validations an epoch, resuming; raise a signal at (step, place)."""
    run = SmallRun(seed=3 if not list(directory.glob("*.pth")) else 99)
    ckpt = manager(directory, run, **settings)
    progress = ckpt.resume()
    for _ in range(progress.epoch, 3):
        if not ckpt.progress.in_validation:
            for batch in run.loader:
                run.learn(batch)
                if signal_at == (ckpt.progress.step, "train"):
                    os.kill(os.getpid(), number)
                ckpt.step()
        for name in ckpt.validations("clean", "shifted"):
            seen = int(ckpt.progress.partial.get("seen", 0))
            for part in range(seen, 4):
                if signal_at == (ckpt.progress.step, f"{name} {part}"):
                    os.kill(os.getpid(), number)
                ckpt.validation_step({"seen": part + 1})
            ckpt.validated(name, {name: float(ckpt.progress.step)})
        ckpt.end_epoch({"loss": float(ckpt.progress.step)})
    ckpt.close()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run that nobody stopped ends with."""
    directory = tmp_path_factory.mktemp("whole")
    state = train(directory).state()
    return state, linnaeus.describe(directory / "checkpoint_epoch_3.pth").about["metrics"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("place", "stage", "pending", "partial"),
    [
        ((7, "train"), "train", [], {}),
        ((10, "clean 2"), "validation", ["clean", "shifted"], {"seen": 3}),
        ((10, "shifted 0"), "validation", ["shifted"], {"seen": 1}),
        ((10, "shifted 3"), "validation", ["shifted"], {"seen": 4}),
    ],
)
def test_a_signal_saves_at_the_next_safe_point_and_ends(
    tmp_path: Path,
    whole: Any,
    number: int,
    place: tuple[int, str],
    stage: str,
    pending: list[str],
    partial: dict[str, int],
) -> None:
    """The status is 128 + signal, no step is lost, and the run goes on right there, to the same bits."""
    with pytest.raises(StoppedBySignal) as stopped:
        train(tmp_path, signal_at=place, number=number)
    assert stopped.value.code == 128 + number
    newest = list_checkpoints(tmp_path)[0]
    progress = linnaeus.load(newest.path)["progress"]
    assert progress["step"] == place[0] + (place[1] == "train")
    assert (progress["stage"], progress["pending_validations"]) == (stage, pending)
    assert progress["partial"] == partial
    assert not newest.metrics  # what is known in the middle of validating is not ranked
    run = train(tmp_path)
    assert same(run.state(), whole[0])
    assert linnaeus.describe(tmp_path / "checkpoint_epoch_3.pth").about["metrics"] == whole[1]


def test_killed_in_validation_it_goes_on_with_the_one_under_way(tmp_path: Path) -> None:
    """A kill costs at most the validation under way; what was measured before it is kept."""
    run = SmallRun()
    ckpt = manager(tmp_path, run)
    for batch in run.loader:
        run.learn(batch)
        ckpt.step()
    names = ckpt.validations("a", "b", "c")
    assert next(names) == "a"
    ckpt.validated("a", {"a": 0.5})
    assert next(names) == "b"
    ckpt.wait()  # and here it is killed
    again = manager(tmp_path, SmallRun(seed=99))
    progress = again.resume()
    assert (progress.epoch, progress.step, progress.in_validation) == (0, 5, True)
    assert (progress.pending_validations, progress.completed_validations) == (("b", "c"), ("a",))
    assert list(again.validations("a", "b", "c")) == ["b", "c"]
    again.end_epoch({"loss": 1.0})
    again.close()
    assert linnaeus.describe(tmp_path / "checkpoint_epoch_1.pth").about["metrics"] == {"a": 0.5, "loss": 1.0}
    assert again.progress.stage == "train"


def test_validations_are_not_saved_when_not_wanted(tmp_path: Path) -> None:
    """AT_VALIDATION: false leaves the schedule alone."""
    train(tmp_path, AT_VALIDATION=False, KEEP_LAST_N=0, KEEP_TOP_N=0)
    assert [found.epoch for found in list_checkpoints(tmp_path)] == [3, 2, 1]


def test_usr1_saves_and_goes_on(tmp_path: Path) -> None:
    """A save on demand at the next safe point, once."""
    run = SmallRun()
    ckpt = manager(tmp_path, run)
    for number, batch in enumerate(run.loader):
        run.learn(batch)
        ckpt.step()
        if number == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
    ckpt.wait()
    assert [found.step for found in list_checkpoints(tmp_path)] == [3]
    ckpt.close()


def test_the_grace_period_is_compared_with_what_a_save_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said after the first save, and at once when a run is resumed; too short a period is warned of."""
    with caplog.at_level("INFO"):
        train(tmp_path)
    assert "the grace period is 30 s" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    with manager(tmp_path, SmallRun(), GRACE_SECONDS=1e-9) as ckpt:
        ckpt.resume()
    assert "may come too late" in caplog.text


def test_the_schedulers_early_signal_is_configurable(tmp_path: Path) -> None:
    """Any signal may be the one that asks to save and end."""
    with pytest.raises(StoppedBySignal) as stopped:
        train(tmp_path, signal_at=(2, "train"), number=signal.SIGUSR2, EXIT_SIGNALS=["SIGUSR2"])
    assert stopped.value.code == 128 + signal.SIGUSR2
    assert list_checkpoints(tmp_path)[0].step == 3


def test_handlers_are_given_back_and_those_of_others_left(tmp_path: Path) -> None:
    """After `close` all is as before; a program that handles a signal itself goes on doing so."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    ckpt = manager(tmp_path, SmallRun())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nothing yet that could be saved
    ckpt.step()
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    os.kill(os.getpid(), signal.SIGTERM)
    ckpt.step()
    assert seen == [signal.SIGTERM]
    ckpt.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_was_forgotten_swallows_no_signal(tmp_path: Path) -> None:
    """When a manager goes away unclosed, signals do again what they did before."""
    ckpt = manager(tmp_path, SmallRun())
    ckpt.step()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ckpt.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first one only asks; the second ends the process wherever it is."""
    code = f"""
        import os, signal, sys, time
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import linnaeus
        from pathlib import Path
        from support.small_run import SmallRun, config
        run = SmallRun()
        ckpt = linnaeus.CheckpointManager(config(Path({str(tmp_path)!r})), **run.parts())
        ckpt.step()
        os.kill(os.getpid(), signal.SIGTERM)
        print("asked", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("never", flush=True)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "asked\n")
