"""What ranks do while they save beside training; scenarios of `support.rank_process`."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from linnaeus import pth
from linnaeus.errors import InsufficientSpaceError, PeerFailedError, SaveError, SaveTimeoutError
from linnaeus.pth import _save_sharded, _shard_files, _shard_plan, _together
from linnaeus.saving import _joint, _saver
from linnaeus.state import Snapshot, _guard, _share
from linnaeus.state._staging import Staged
from support.lanes import ThreadLane, staging
from support.processes import wait_until
from support.rank_run import RankRun

# Where the writer of each form lays out, and where it waits for the disk.
LAYS_OUT = {"pth": (_together, "archive"), "sharded": (_shard_plan, "plan_of")}
WAITS = {"pth": (_together, "fsync_file"), "sharded": (_shard_files, "fsync_file")}


class Beside:
    """A run of several ranks whose steps can be done one by one, and whose writer can be held up."""

    def __init__(self, directory: Path, parallel: str = "fsdp", **settings: Any) -> None:
        self.run = RankRun(parallel, batch_size=24)
        self._parallel = parallel
        self.directory, self.rank, self.now = directory, dist.get_rank(), 0.0
        self.ckpt = self.run.manager(
            directory, **{"EPOCHS": 10**6, "INTERVAL_STEPS": 1, "KEEP_LAST_N": 0, "KEEP_TOP_N": 0} | settings
        )
        self.learn()

    def learn(self) -> None:
        """Do a step, which takes all ranks."""
        run = self.run
        run.optimizer.zero_grad()
        if self._parallel == "columns":
            for parameter in run.model.parameters():
                parameter.grad = torch.ones_like(parameter)
        else:
            run.model(torch.ones(2, 4)).square().mean().backward()
        run.optimizer.step()

    def step(self) -> None:
        """Do a step and count it."""
        self.learn()
        self.ckpt.step()

    def end(self) -> None:
        """Wait until this rank's writer knows what became of the save, and then for all ranks."""
        task = self.ckpt._pipeline._task
        wait_until(lambda: task is None or task.is_finished)
        dist.barrier()

    def names(self) -> list[str]:
        """Return what there is, the same on every rank."""
        dist.barrier()
        found = sorted(entry.name for entry in self.directory.iterdir() if not entry.is_symlink())
        dist.barrier()
        return [name for name in found if name != ".last_step"]

    def check(self, path: Path, expected: dict[str, torch.Tensor]) -> None:
        """Compare a file with a gathered state."""
        if self.rank == 0:
            loaded = pth.load(path, mmap=False)
            for name, tensor in loaded["model"].items():
                assert torch.equal(tensor, expected[f"{name}."]), (path, name)
                for key, value in loaded["optimizer"]["state"].get(name, {}).items():
                    assert torch.equal(value, expected[f"{name}.{key}"]), (path, name, key)
            assert pth.verify(path).error is None
            assert str(loaded["step"]) in path.name
        dist.barrier()


@contextlib.contextmanager
def held_up(owner: Any, name: str, *, on: bool) -> Iterator[Callable[[], None]]:
    """Let a function of the writer wait, on some ranks, until what this yields is called."""
    real, (reads, writes) = getattr(owner, name), os.pipe()

    def waits(*args: Any, **named: Any) -> Any:
        os.read(reads, 1)
        return real(*args, **named)

    if on:
        setattr(owner, name, waits)

    def let_go() -> None:
        setattr(owner, name, real)
        os.write(writes, b"x" * 99)

    try:
        yield let_go
    finally:
        let_go()


@contextlib.contextmanager
def failing(owner: Any, name: str, *, on: bool, number: int = errno.ENOSPC) -> Iterator[None]:
    """Let a function of the writer fail, on some ranks."""
    real = getattr(owner, name)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if on:
        setattr(owner, name, refuse)
    try:
        yield
    finally:
        setattr(owner, name, real)


def goes_on(directory: Path, parallel: str, form: str = "pth") -> None:
    """All ranks train while one's disk answers nothing; what is saved is the state at its step."""
    beside = Beside(directory / f"on_{parallel}_{form}", parallel, INTERVAL_STEPS=100, FORMAT=form)
    with held_up(*WAITS[form], on=beside.rank == 1) as let_go:
        expected = beside.run.whole()
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        task = beside.ckpt._pipeline._task
        assert task is not None
        for _ in range(5):
            beside.step()
            assert not task.is_finished
            assert beside.names()[1:] == []  # but for what is being written
        let_go()
        beside.end()
    beside.step()
    beside.step()
    assert beside.ckpt._pipeline._task is None
    assert beside.names() == [f"checkpoint_epoch_0_step_1.{form}"]
    beside.check(beside.directory / f"checkpoint_epoch_0_step_1.{form}", expected)
    beside.ckpt.close()


def fails(directory: Path, victim: str) -> None:
    """What fails on one rank is raised at one and the same step by all, naming it; the next save is good."""
    beside = Beside(directory / f"fails_{victim}")
    beside.step()
    beside.end()
    with failing(_together, "write_all", on=beside.rank == int(victim)):
        beside.step()
        beside.end()
    kind = InsufficientSpaceError if beside.rank == int(victim) else PeerFailedError
    with pytest.raises(kind, match=f"disk became full on rank {victim}") as caught:
        beside.step()
    if isinstance(caught.value, PeerFailedError):
        assert list(caught.value.ranks) == [int(victim)]
    assert beside.ckpt.progress.step == 3
    assert beside.names() == ["checkpoint_epoch_0_step_1.pth"]
    for call in ("wait", "close"):  # it was told once
        getattr(beside.ckpt, call)()
    assert beside.ckpt.save().name == "checkpoint_epoch_0_step_3.pth"
    assert beside.names() == [f"checkpoint_epoch_0_step_{number}.pth" for number in (1, 3)]
    with failing(_saver, "commit", on=beside.rank == 0, number=errno.EIO):
        beside.step()
        with pytest.raises(SaveError, match="Input/output error"):
            beside.ckpt.wait()
    beside.ckpt.close()


def is_torn(directory: Path, how: str, form: str = "pth") -> None:
    """What changes unseen on one rank is thrown away by all, and saved again by copy."""
    beside = Beside(directory / f"torn_{how}_{form}", INTERVAL_STEPS=100, FORMAT=form)
    beside.ckpt.progress = beside.ckpt.progress.after_step()
    before = beside.ckpt.save()
    with held_up(*LAYS_OUT[form], on=beside.rank == 0) as let_go:  # the sums are taken before
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        task = beside.ckpt._pipeline._task
        assert task is not None
        guard = task.job.guard
        assert guard is not None
        wait_until(lambda: bool(guard._blocks) and all(b.crc32 is not None for b in guard._blocks.values()))
        dist.barrier()
        if beside.rank == 1:
            parameter = next(beside.run.model.parameters())
            with torch.no_grad():
                (parameter.to_local() if how == "hidden" else parameter).add_(1.0)
        dist.barrier()
        let_go()
        beside.end()
    assert beside.names() == [before.name]  # and nothing half-written
    expected = beside.run.whole()
    beside.ckpt.progress = beside.ckpt.progress.after_step()
    beside.ckpt._reach(due=False)
    assert beside.ckpt._account.num_redone == 1
    beside.ckpt.wait()
    assert beside.names() == [before.name, f"checkpoint_epoch_0_step_3.{form}"]
    beside.check(beside.directory / f"checkpoint_epoch_0_step_3.{form}", expected)
    beside.ckpt.close()


@contextlib.contextmanager
def on_a_device() -> Iterator[ThreadLane]:
    """Let what a save reads come from a device of which a thread plays the copying stream."""
    real, lane = _share.take_snapshot, ThreadLane()

    def taken(*args: Any, **named: Any) -> Snapshot:
        snapshot = real(*args, **named)
        if snapshot.guard is None:
            return snapshot
        return Snapshot(
            snapshot._content, None, Staged(staging(lane), snapshot.guard.lent, (), snapshot.guard.owners)
        )

    _share.take_snapshot = taken
    try:
        yield lane
    finally:
        lane.stop()
        _share.take_snapshot = real


def comes_from_a_device(directory: Path, form: str) -> None:
    """What is on its way while all ranks step is saved as it was."""
    with on_a_device() as lane:
        beside = Beside(directory / f"device_{form}", INTERVAL_STEPS=100, FORMAT=form)
        expected = beside.run.whole()
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        threading.Timer(0.05 * beside.rank, lane.may_copy.set).start()
        beside.learn()
        beside.ckpt.wait()
    beside.check(beside.directory / f"checkpoint_epoch_0_step_1.{form}", expected)
    beside.ckpt.close()


def is_torn_on_a_device(directory: Path, form: str) -> None:
    """What changes on one rank before it was copied is thrown away by all, and saved again by copy."""
    with on_a_device() as lane:
        beside = Beside(directory / f"device_torn_{form}", INTERVAL_STEPS=100, FORMAT=form)
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        if beside.rank == 1:
            with torch.no_grad():
                next(beside.run.model.parameters()).add_(1.0)
        lane.may_copy.set()
        beside.end()
        assert beside.names() == []
        expected = beside.run.whole()
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._reach(due=False)
        assert beside.ckpt._account.num_redone == 1
        beside.ckpt.wait()
    assert beside.names() == [f"checkpoint_epoch_0_step_2.{form}"]
    beside.check(beside.directory / f"checkpoint_epoch_0_step_2.{form}", expected)
    beside.ckpt.close()


def fails_between_agreements(directory: Path, place: str, form: str) -> None:
    """Whatever one rank meets anywhere is raised by all at one step, naming it; the next save is good."""
    with on_a_device() as lane:
        lane.may_copy.set()
        beside = Beside(directory / f"between_{place}_{form}", FORMAT=form)
        problem = RuntimeError("the device is gone")
        owner, name = {
            "arriving": (ThreadLane, "wait"),
            "whole": (_share.Share, "whole"),
            "laying out": LAYS_OUT[form],
            "after": (_joint._Turn, "_write"),
        }[place]
        real = getattr(owner, name)
        if beside.rank == 1:
            setattr(owner, name, lambda *args: _failing_after(real, args, problem, place == "after"))
        beside.step()
        beside.end()
        setattr(owner, name, real)
        with pytest.raises(SaveError, match="the device is gone") as caught:
            beside.step()
        assert beside.ckpt.progress.step == 2
        if beside.rank != 1:
            assert isinstance(caught.value, PeerFailedError)
            assert (list(caught.value.ranks), list(caught.value.missing)) == ([1], [])
        beside.step()
        beside.ckpt.close()
    saved = (1, 3) if place == "after" else (3,)
    assert beside.names() == [f"checkpoint_epoch_0_step_{number}.{form}" for number in saved]


def _failing_after(real: Any, args: Any, problem: Exception, does_it: bool) -> None:
    if does_it:
        real(*args)
    raise problem


def steps_at_random(directory: Path, parallel: str, count: str, form: str = "pth") -> None:
    """Optimizers step before, in the middle of and after each rank's reading: every file is one instant."""
    stream = random.Random(dist.get_rank())
    real = _guard.Guard.pieces

    def slowly(self: Any, storage: torch.UntypedStorage) -> Iterator[memoryview]:
        for piece in real(self, storage):
            if stream.random() < 0.2:
                time.sleep(stream.random() * 0.003)
            yield piece

    _guard._PIECE_BYTES, before = 64, _guard._PIECE_BYTES
    _guard.Guard.pieces = slowly  # type: ignore[method-assign]
    _save_sharded._HELD_BYTES = 128
    beside = Beside(directory / f"random_{parallel}_{form}", parallel, HOLD_SECONDS=0, FORMAT=form)
    expected: dict[Path, dict[str, torch.Tensor]] = {}
    try:
        for number in range(int(count)):
            beside.learn()
            state = beside.run.whole()
            beside.ckpt.step()
            newest = beside.ckpt.newest
            assert newest is not None
            expected[newest] = state
            for _ in range(number % 3):
                time.sleep(stream.random() * 0.004)
                beside.learn()
        beside.ckpt.close()
    finally:
        _guard._PIECE_BYTES, _guard.Guard.pieces = before, real  # type: ignore[method-assign]
    assert len(expected) == int(count)
    assert beside.ckpt._account.num_redone == 0
    for path, state in expected.items():
        beside.check(path, state)


def policies(directory: Path) -> None:
    """WHEN_BUSY, ASYNC and ON_FAILURE are followed by all ranks alike."""
    beside = Beside(directory / "skips", WHEN_BUSY="skip")
    with held_up(_together, "fsync_file", on=beside.rank == 1) as let_go:
        for _ in range(3):
            beside.step()
        let_go()
        beside.end()
    beside.step()
    assert beside.ckpt._account.num_skipped == 3
    beside.ckpt.close()
    assert beside.names()[0] == "checkpoint_epoch_0_step_1.pth"
    beside = Beside(directory / "waits", ASYNC=False)
    with failing(_together, "fsync_file", on=beside.rank == 1), pytest.raises(SaveError):
        beside.step()
    beside.step()
    assert beside.names() == ["checkpoint_epoch_0_step_2.pth"]
    beside.ckpt.close()
    beside = Beside(directory / "warns", ON_FAILURE="warn")
    with failing(_together, "fsync_file", on=beside.rank == 1):
        for _ in range(3):
            beside.step()
        beside.ckpt.wait()
    assert beside.ckpt._account.num_failures == 3
    beside.step()
    beside.ckpt.close()
    assert beside.names() == ["checkpoint_epoch_0_step_4.pth"]


def tries_again(directory: Path) -> None:
    """ON_FAILURE: retry saves again when some rank's clock says so, all at one step."""
    beside = Beside(directory / "retries", ON_FAILURE="retry", INTERVAL_STEPS=100)
    beside.ckpt._pipeline._clock = lambda: beside.now
    with failing(_together, "fsync_file", on=beside.rank == 1):
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        beside.end()
        for _ in range(2):
            beside.step()
    assert beside.ckpt._account.num_failures == 1
    assert beside.names() == []
    beside.now = 1.5 if beside.rank == 1 else 0.0  # one rank's clock goes before
    wait_until(lambda: _stepped(beside).ckpt._pipeline.newest is not None, seconds=30)
    beside.ckpt.close()
    assert len(beside.names()) == 1


def _stepped(beside: Beside) -> Beside:
    beside.step()
    time.sleep(0.02)
    return beside


def refuses_what_is_not_finite(directory: Path) -> None:
    """A rank whose part holds NaN keeps all from saving, and all know which."""
    beside = Beside(directory / "finite", CHECK_FINITE=True)
    beside.step()
    beside.ckpt.wait()
    beside.learn()
    with torch.no_grad():
        if beside.rank == 1:
            next(beside.run.model.parameters())._local_tensor.fill_(torch.nan)
    beside.ckpt.step()
    with pytest.raises(SaveError, match=r"NaN or infinite values in 0\.weight") as caught:
        beside.ckpt.wait()
    assert isinstance(caught.value, PeerFailedError) == (beside.rank != 1)
    beside.ckpt.close()
    assert beside.names() == ["checkpoint_epoch_0_step_1.pth"]


def hangs(directory: Path) -> None:
    """A rank whose disk hangs says so, the others name it; when it is back, all save again."""
    beside = Beside(directory / "hangs", DEADLINE_SECONDS=1.0, INTERVAL_STEPS=100)
    with held_up(_together, "fsync_file", on=beside.rank == 1) as let_go:
        beside.ckpt.progress = beside.ckpt.progress.after_step()
        beside.ckpt._begin_saving()
        with pytest.raises(SaveTimeoutError if beside.rank == 1 else PeerFailedError) as caught:
            beside.ckpt.wait()
        if isinstance(caught.value, PeerFailedError):
            assert list(caught.value.ranks) == [1]
        dist.barrier()
        beside.step()
        kind = SaveTimeoutError if beside.rank == 1 else PeerFailedError
        with pytest.raises(kind, match="still not written"):  # and those who don't hang are told at once
            beside.ckpt.save()
        stuck = beside.ckpt._pipeline._stuck
        let_go()
        wait_until(lambda: stuck is None or stuck.is_finished)
        dist.barrier()
    assert [name for name in beside.names() if "tmp" not in name] == []
    beside.step()
    assert beside.ckpt.save().name == "checkpoint_epoch_0_step_3.pth"
    beside.ckpt.close()
    assert [name for name in beside.names() if "tmp" not in name] == ["checkpoint_epoch_0_step_3.pth"]


def passes_tensors_on(directory: Path, form: str = "pth") -> None:
    """Parts too scattered to be written are passed between ranks at the call, or while all wait."""
    for number, budget in enumerate((64 << 20, 0)):
        _share.MOVED_BYTES, before = budget, _share.MOVED_BYTES
        beside = Beside(directory / f"passes_{number}_{form}", "columns", FORMAT=form)
        beside.step()
        if budget == 0:
            assert beside.ckpt.last_saved is not None  # nobody went on before
        expected = beside.run.whole()
        beside.learn()
        beside.ckpt.close()
        _share.MOVED_BYTES = before
        beside.check(beside.directory / f"checkpoint_epoch_0_step_1.{form}", expected)


def dies_beside_training(directory: Path, victim: str) -> None:
    """A rank is killed in its writer; the others raise, naming it, and nothing is left behind."""
    beside = Beside(directory / "run", DEADLINE_SECONDS=3.0, INTERVAL_STEPS=100)
    beside.ckpt.progress = beside.ckpt.progress.after_step()
    beside.ckpt.save()
    if beside.rank == int(victim):
        _together.write_all = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    beside.ckpt.progress = beside.ckpt.progress.after_step()
    start = time.monotonic()
    beside.ckpt._reach(due=True)
    try:
        beside.ckpt.wait()
    except PeerFailedError as error:
        seconds = time.monotonic() - start
        (directory / f"met_{beside.rank}").write_text(f"{[*error.ranks]} {seconds:.1f}")
    os._exit(0)  # torch would wait for the dead


SCENARIOS = {
    one.__name__: one
    for one in (
        comes_from_a_device,
        dies_beside_training,
        fails_between_agreements,
        is_torn_on_a_device,
        fails,
        goes_on,
        hangs,
        is_torn,
        passes_tensors_on,
        policies,
        refuses_what_is_not_finite,
        steps_at_random,
        tries_again,
    )
}
