"""What goes wrong with a save in the background is told at the next call, and costs nothing older."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import InsufficientSpaceError, SaveError, SaveTimeoutError
from linnaeus.files import _commit
from support.processes import wait_until
from support.small_run import SmallRun, config
from support.trees import same


class Disk:
    """A disk that fails or hangs on demand: what stands behind fsync."""

    def __init__(self) -> None:
        self.errors: list[int] = []
        self.num_hanging = 0
        self._answer: int | None = None
        self._read, self._write = os.pipe()

    def fsync(self, descriptor: int) -> None:
        """Do it, fail, or wait for an answer that does not come."""
        if self.errors:
            raise OSError(self.errors[0], os.strerror(self.errors.pop(0)))
        if self._answer is None:
            return
        self.num_hanging += 1
        os.read(self._read, 1)
        self.num_hanging -= 1

    def hang(self) -> None:
        """Answer no more."""
        self._answer = 0

    def come_back(self) -> None:
        """Answer again, also those that wait."""
        self._answer = None
        os.write(self._write, b"x" * self.num_hanging)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Put such a disk under everything that is saved."""
    disk = Disk()

    class Calls:
        def __getattr__(self, name: str) -> Any:
            return disk.fsync if name == "fsync" else getattr(os, name)

    monkeypatch.setattr(_commit, "os", Calls())
    yield disk
    disk.come_back()


class Loop:
    """A run whose steps can be done one by one."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.run = SmallRun()
        self.now = 0.0
        self.ckpt = linnaeus.CheckpointManager(
            config(directory, EPOCHS=99, KEEP_LAST_N=0, KEEP_TOP_N=0, **settings),
            **self.run.parts(),
            clock=lambda: self.now,
        )
        self._batches = iter(self.run.loader)

    def step(self) -> None:
        """Train on one batch and count the step."""
        self.run.learn(next(self._batches))
        self.ckpt.step()

    def end(self) -> None:
        """Wait until the writer is done, well or not, without asking how."""
        task = self.ckpt._pipeline._task
        wait_until(lambda: task is None or task.is_finished)


def names(directory: Path) -> list[str]:
    """Return the checkpoints of a directory."""
    return sorted(entry.name for entry in directory.glob("checkpoint*"))


def test_a_failure_is_raised_at_the_next_step_with_where_it_happened(tmp_path: Path, disk: Disk) -> None:
    """The writer's own traceback, nothing older touched, nothing left behind, and training may go on."""
    loop = Loop(tmp_path, INTERVAL_STEPS=1)
    loop.step()
    loop.end()
    disk.errors = [errno.EIO]
    loop.step()
    loop.end()
    with pytest.raises(SaveError, match="Input/output error") as caught:
        loop.step()
    assert "_saver.py" in "".join(traceback.format_exception(caught.value))
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    assert names(tmp_path) == ["checkpoint_epoch_0_step_1.pth"]
    loop.ckpt.close()  # it was told once
    assert loop.ckpt.save().name == "checkpoint_epoch_0_step_3.pth"


@pytest.mark.parametrize("how", ["end_epoch", "save", "wait", "close", "validation_step"])
def test_every_call_raises_it(tmp_path: Path, disk: Disk, how: str) -> None:
    """Whatever is called next, the failure comes out there."""
    loop = Loop(tmp_path, INTERVAL_STEPS=1)
    disk.errors = [errno.ENOSPC]
    loop.step()
    loop.end()
    with pytest.raises(InsufficientSpaceError):
        getattr(loop.ckpt, how)()


def script(directory: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a program that trains one step and then does something."""
    head = f"""
        import errno, os, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import linnaeus
        from pathlib import Path
        from support.small_run import SmallRun, config
        run = SmallRun()
        ckpt = linnaeus.CheckpointManager(config(Path({str(directory)!r}), INTERVAL_STEPS=1), **run.parts())
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_program_that_forgets_to_close_waits_for_its_last_save(tmp_path: Path) -> None:
    """The interpreter's exit is late enough: the checkpoint is whole and the status 0."""
    ended = script(tmp_path, "run.learn(next(iter(run.loader))); ckpt.step()")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert linnaeus.verify(tmp_path / "latest.pth").ok


def test_a_program_whose_last_save_failed_does_not_end_well(tmp_path: Path) -> None:
    """The error is shown with its traceback, what was printed is printed, and the status is 1."""
    body = """
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync = full
        run.learn(next(iter(run.loader)))
        print("trained")
        ckpt.step()
    """
    ended = script(tmp_path, body)
    assert ended.returncode == 1
    assert ended.stdout == "trained\n"
    assert "InsufficientSpaceError" in ended.stderr
    assert "Traceback" in ended.stderr


def test_a_writer_that_hangs_is_given_up_and_never_published(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """After the deadline the next step raises with the writer's stack; what it writes later stays unseen."""
    loop = Loop(tmp_path, INTERVAL_STEPS=2, DEADLINE_SECONDS=0.3)
    disk.hang()
    loop.step()
    loop.step()
    wait_until(lambda: disk.num_hanging == 1)
    loop.run.optimizer.step()  # not held up
    task = loop.ckpt._pipeline._task
    assert task is not None
    wait_until(lambda: task.age_seconds > 0.3)
    with pytest.raises(SaveTimeoutError, match="fsync") as caught:
        loop.step()
    assert "_commit.py" in caught.value.stack
    assert "all stacks" in caplog.text
    with pytest.raises(SaveTimeoutError):
        loop.step()  # due again, and the disk is still away
    disk.come_back()
    wait_until(lambda: task.is_finished)
    assert names(tmp_path) == []
    assert list(tmp_path.glob(".*")) == []
    assert loop.ckpt.save().name == "checkpoint_epoch_0_step_4.pth"
    loop.ckpt.close()


def test_a_writer_that_hangs_does_not_hold_training_when_told_so(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """ON_FAILURE: warn goes on without checkpoints, says so each time, and saves again once it can."""
    before = threading.active_count()  # earlier tests may have left some
    loop = Loop(tmp_path, INTERVAL_STEPS=1, DEADLINE_SECONDS=0.05, ON_FAILURE="warn")
    disk.hang()
    for _ in range(4):
        loop.step()
    assert loop.ckpt._account.num_failures >= 2
    assert "Going on without it" in caplog.text
    stuck = loop.ckpt._pipeline._stuck
    assert stuck is not None
    assert threading.active_count() <= before + 2  # the one that hangs, and its successor
    disk.come_back()
    wait_until(lambda: stuck.is_finished)
    loop.step()
    loop.ckpt.close()
    assert names(tmp_path) == ["checkpoint_epoch_0_step_5.pth"]


def test_a_failure_is_tried_again_when_told_so(tmp_path: Path, disk: Disk) -> None:
    """ON_FAILURE: retry saves the state of then, after 1 s, 10 s and 60 s, and then raises."""
    loop = Loop(tmp_path, INTERVAL_STEPS=2, INTERVAL_EPOCHS=0, ON_FAILURE="retry")
    disk.errors = [errno.EIO] * 2
    loop.step()
    loop.step()
    for now in (0.5, 1.6, 5.0, 12.0):
        loop.end()
        loop.now = now
        loop.ckpt.validation_step()  # a call that counts no step
    loop.end()
    loop.ckpt.wait()
    assert names(tmp_path) == ["checkpoint_epoch_0_step_2.pth"]
    assert loop.ckpt._account.num_failures == 2
    disk.errors = [errno.EIO] * 9
    with pytest.raises(SaveError):
        loop.ckpt.save()  # asked for by name, it raises at once
    loop.step()
    loop.step()
    with pytest.raises(SaveError):
        loop.ckpt.close()
    assert len(disk.errors) == 9 - 1 - 4


def test_a_directory_removed_under_the_run_is_an_error(tmp_path: Path) -> None:
    """It is not made anew, which would hide that all older checkpoints are gone; put back, saving goes on."""
    directory = tmp_path / "run"
    loop = Loop(directory, INTERVAL_STEPS=1)
    loop.step()
    loop.ckpt.wait()
    away = directory.rename(tmp_path / "away")
    loop.step()
    loop.end()
    with pytest.raises(SaveError, match="No such file"):
        loop.step()
    assert not directory.exists()
    away.rename(directory)
    loop.ckpt.save()
    assert names(directory) == ["checkpoint_epoch_0_step_1.pth", "checkpoint_epoch_0_step_3.pth"]
    loop.ckpt.close()


def test_a_clock_that_jumps_back_stops_no_saving(tmp_path: Path) -> None:
    """Minutes are counted from where the clock is now; the newest is the newest by its step."""
    loop = Loop(tmp_path, INTERVAL_MINUTES=1, INTERVAL_EPOCHS=0)
    for loop.now in (1000.0, 1059.0, 1061.0, 20.0, 79.0, 81.0):
        loop.ckpt.step()
        loop.ckpt.wait()
    assert [found.step for found in linnaeus_listing(tmp_path)] == [6, 3, 1]
    loop.ckpt.close()


def linnaeus_listing(directory: Path) -> Any:
    """Return what the run's directory holds, newest first."""
    from linnaeus.runs import list_checkpoints

    return list_checkpoints(directory)


@pytest.mark.parametrize(("policy", "num_files"), [("skip", 2), ("wait", 4)])
def test_what_is_done_when_a_save_is_due_while_one_is_under_way(
    tmp_path: Path, disk: Disk, policy: str, num_files: int
) -> None:
    """It is waited for, or the new one is skipped and counted."""
    loop = Loop(tmp_path, INTERVAL_STEPS=1, WHEN_BUSY=policy)
    disk.hang()
    loop.step()
    wait_until(lambda: disk.num_hanging == 1)
    if policy == "skip":
        loop.step()
        loop.step()
    threading.Timer(0.05, disk.come_back).start()
    loop.end() if policy == "skip" else None
    loop.step()
    if policy == "wait":
        loop.step()
        loop.step()
    loop.ckpt.close()
    assert len(names(tmp_path)) == num_files
    assert loop.ckpt._account.num_skipped == (2 if policy == "skip" else 0)


def test_without_async_each_save_is_done_when_its_call_returns(tmp_path: Path) -> None:
    """SCHEDULE.CHECKPOINT.ASYNC: false waits, and raises at the very call."""
    loop = Loop(tmp_path, INTERVAL_STEPS=1, ASYNC=False)
    loop.step()
    saved = linnaeus.load(tmp_path / "checkpoint_epoch_0_step_1.pth", mmap=False)
    assert same(dict(saved["model"]), dict(loop.run.model.state_dict()))
    tmp_path.rename(tmp_path.with_name("gone"))
    with pytest.raises(SaveError):
        loop.step()


def test_all_that_was_done_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each save, totals at the end, and the totals before each save inside its file."""
    seen: list[Any] = []
    with caplog.at_level(logging.INFO):
        run = SmallRun()
        cfg = config(tmp_path, INTERVAL_STEPS=1)
        with linnaeus.CheckpointManager(
            cfg, **run.parts(), on_save=lambda record, totals: seen.append((record, totals))
        ) as ckpt:
            for batch, _ in zip(run.loader, range(3), strict=False):
                run.learn(batch)
                ckpt.step()
    assert [record.step for record, _ in seen] == [1, 2, 3]
    assert all(record.size_bytes == record.path.stat().st_size for record, _ in seen)
    assert [totals["saves"] for _, totals in seen] == [1, 2, 3]
    assert caplog.text.count("training blocked for") == 3
    assert "3 saves, 0 failed, 0 skipped" in caplog.text
    inside = linnaeus.describe(tmp_path / "checkpoint_epoch_0_step_3.pth").about["saving"]
    assert (inside["saves"], inside["failures"], inside["last"]["step"]) == (2, 0, 2)
    assert {"size_bytes", "blocked_ms", "write_seconds", "mb_per_second"} <= set(inside["last"])


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    """A real SummaryWriter takes them, and TensorBoard's own reader gives them back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from linnaeus.saving import TensorBoardCallback

    with SummaryWriter(str(tmp_path / "curves")) as writer:
        model = torch.nn.Linear(3, 3)
        with linnaeus.CheckpointManager(
            config(tmp_path / "run", INTERVAL_STEPS=1), model=model, on_save=TensorBoardCallback(writer)
        ) as ckpt:
            ckpt.step()
            ckpt.step()
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    assert [event.step for event in events.Scalars("saving/blocked_ms")] == [1, 2]
    assert [event.value for event in events.Scalars("saving/saves")] == [1.0, 2.0]


def test_work_lost_at_a_kill_is_told(tmp_path: Path) -> None:
    """The next process says how many steps the last one had done beyond its checkpoint."""
    loop = Loop(tmp_path, INTERVAL_STEPS=2)
    loop.step()
    loop.step()
    loop.ckpt.wait()
    loop.ckpt._trace._noted_at -= 5  # as if so many seconds had passed
    loop.step()  # and here it is killed
    again = Loop(tmp_path, INTERVAL_STEPS=2)
    again.ckpt.resume()
    assert again.ckpt._account.lost is not None
    assert again.ckpt._account.lost["steps"] == 1
    again.ckpt.close()
    last = Loop(tmp_path, INTERVAL_STEPS=2)
    last.ckpt.resume()
    assert last.ckpt._account.lost is None
