"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointInvalidError, CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.resuming import choose, choose_newest
from support.pickles import Call, archive, dumps


def put(path: Path, epoch: int, step: int = 0, **about: Any) -> Path:
    """Write a small checkpoint."""
    path.parent.mkdir(exist_ok=True)
    linnaeus.save(
        {"model": {"w": torch.full((40,), epoch)}}, path, about={"epoch": epoch, "step": step, **about}
    )
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory with epochs 1 to 3."""
    for epoch in (1, 2, 3):
        put(tmp_path / "run" / f"checkpoint_epoch_{epoch}.pth", epoch, epoch * 10)
    return tmp_path / "run"


def nowhere(name: str) -> Path:
    """Resolve nothing."""
    raise CheckpointNotFoundError(identifier=name, places=["not looked for"])


def names(directory: Path) -> list[str]:
    """Return what a directory holds."""
    return sorted(entry.name for entry in directory.iterdir())


def flip(path: Path) -> None:
    """Change one byte of the first tensor, so that the structure stays whole."""
    data = bytearray(path.read_bytes())
    (tensor,) = linnaeus.describe(path).tensors
    assert tensor.record
    position = data.index(torch.full((40,), int(path.stem[-1])).numpy().tobytes())
    data[position] ^= 1
    path.write_bytes(data)


def replace(data: bytes) -> Callable[[Path], object]:
    """Return an act that puts other bytes in a file's place."""
    return lambda path: path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-50]), "end is missing"),
    "empty": (replace(b""), "empty"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "zeros"),
    "flipped": (flip, "CRC-32"),
    "foreign": (replace(b"<html>502 Bad Gateway</html>"), "web page"),
    "pickled code": (lambda path: archive(path, dumps(Call("os", "system", "true"))), "os.system"),
}


def test_the_newest_is_chosen_and_nothing_is_touched(run: Path) -> None:
    """Whole checkpoints stay where they are."""
    choice = choose_newest(run)
    assert choice is not None
    assert (choice.path.name, choice.passed_over) == ("checkpoint_epoch_3.pth", ())
    assert "newest" in choice.reason
    assert len(names(run)) == 3


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_is_passed_over_with_its_reason_and_moved_aside(
    run: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next newest is used; the damaged one is kept under another name, with its bytes."""
    newest = run / "checkpoint_epoch_3.pth"
    damage, reason = DAMAGE[kind]
    damage(newest)
    content = newest.read_bytes()
    with caplog.at_level(logging.WARNING):
        choice = choose_newest(run)
    assert choice is not None
    assert choice.path.name == "checkpoint_epoch_2.pth"
    assert reason in choice.passed_over[0]
    assert reason in caplog.text
    assert "checkpoint_epoch_3.pth.invalid" in caplog.text
    assert names(run) == [
        "checkpoint_epoch_1.pth",
        "checkpoint_epoch_2.pth",
        "checkpoint_epoch_3.pth.invalid",
    ]
    assert (run / "checkpoint_epoch_3.pth.invalid").read_bytes() == content


def test_several_damaged_ones_are_passed_over_and_older_ones_left_alone(run: Path) -> None:
    """Only what is newer than the choice is judged and moved; an earlier quarantine is not overwritten."""
    (run / "checkpoint_epoch_3.pth.invalid").write_bytes(b"from before")
    for epoch in (3, 2):
        flip(run / f"checkpoint_epoch_{epoch}.pth")
    put(run / "checkpoint_epoch_0_step_5.pth", 0, 5).write_bytes(b"")
    choice = choose_newest(run)
    assert choice is not None
    assert choice.path.name == "checkpoint_epoch_1.pth"
    assert len(choice.passed_over) == 2
    assert names(run) == [
        "checkpoint_epoch_0_step_5.pth", "checkpoint_epoch_1.pth", "checkpoint_epoch_2.pth.invalid",
        "checkpoint_epoch_3.pth.invalid", "checkpoint_epoch_3.pth.invalid.1",
    ]  # fmt: skip
    assert (run / "checkpoint_epoch_3.pth.invalid").read_bytes() == b"from before"


def test_when_all_are_bad_every_start_is_an_error_and_nothing_is_moved(run: Path) -> None:
    """Never a silent fresh start: the error tells each problem and what to do, again and again."""
    for epoch, kind in ((1, "empty"), (2, "flipped"), (3, "foreign")):
        DAMAGE[kind][0](run / f"checkpoint_epoch_{epoch}.pth")
    before = names(run)
    for _ in range(3):
        with pytest.raises(CheckpointInvalidError) as caught:
            choose(run, auto=True, named=None, resolve=nowhere)
        assert all(
            part in str(caught.value) for part in ("empty", "CRC-32", "web page", "TRAIN.RESUME", str(run))
        )
        assert names(run) == before


def test_only_quarantined_files_are_an_error_too(tmp_path: Path) -> None:
    """A directory that lost its good checkpoints by hand is no fresh start either."""
    run = tmp_path / "run"
    put(run / "checkpoint_epoch_3.pth.invalid", 3)
    with pytest.raises(CheckpointInvalidError, match="moved aside as damaged"):
        choose_newest(run)


def test_an_empty_or_missing_directory_is_a_fresh_start(tmp_path: Path) -> None:
    """A run that never saved starts from the beginning."""
    assert choose_newest(tmp_path) is None
    assert choose(tmp_path / "none", auto=True, named=None, resolve=nowhere) is None


def test_auto_resume_can_be_switched_off(run: Path) -> None:
    """Without it and without a name, the directory is not looked at."""
    assert choose(run, auto=False, named=None, resolve=nowhere) is None


def named(run: Path, source: Path, *, auto: bool = True, as_name: str = "source.pth") -> str:
    """Return the chosen file's name when TRAIN.RESUME names `source`."""
    choice = choose(run, auto=auto, named=as_name, resolve=lambda _: source)
    assert choice is not None
    return choice.path.name


@pytest.mark.parametrize(
    ("epoch", "step", "chosen"),
    [(2, 99, "own"), (3, 29, "own"), (3, 30, "own"), (3, 31, "source"), (4, 0, "source")],
)
def test_the_runs_own_wins_unless_the_named_one_is_newer(
    run: Path, epoch: int, step: int, chosen: str
) -> None:
    """A relaunched job goes on; a newer checkpoint that is named brings the run forward."""
    source = put(run.parent / "elsewhere" / "source.pth", epoch, step)
    assert named(run, source) == {"own": "checkpoint_epoch_3.pth", "source": "source.pth"}[chosen]
    assert named(run, source, auto=False) == "source.pth"


def test_a_run_that_began_from_the_named_one_goes_on_with_its_own(run: Path) -> None:
    """However far the source had come, and even when it can't be had any more."""
    put(run / "checkpoint_epoch_4.pth", 4, 1, lineage={"resumed_from": "source.pth"})
    source = put(run.parent / "elsewhere" / "source.pth", 400, 9000)
    assert named(run, source) == "checkpoint_epoch_4.pth"
    choice = choose(run, auto=True, named="source.pth", resolve=nowhere)
    assert choice is not None
    assert named(run, source, as_name="other.pth") == "source.pth"


def test_a_named_one_is_used_where_the_run_has_none(tmp_path: Path) -> None:
    """TRAIN.RESUME counts although nothing was found in the directory, and the reason names it."""
    source = put(tmp_path / "elsewhere" / "source.pth", 3)
    choice = choose(tmp_path / "run", auto=True, named="source.pth", resolve=lambda _: source)
    assert choice is not None
    assert choice.path == source
    assert "source.pth" in choice.reason


@pytest.mark.parametrize("auto", [True, False])
def test_a_named_one_that_cannot_be_had_is_an_error(run: Path, auto: bool) -> None:
    """Not found or damaged: never a fresh start, and never another file in its place."""
    with pytest.raises(CheckpointNotFoundError):
        choose(run, auto=auto, named="gone.pth", resolve=nowhere)
    source = put(run.parent / "elsewhere" / "source_9.pth", 9)
    flip(source)
    with pytest.raises(CorruptCheckpointError, match="CRC-32"):
        choose(run, auto=auto, named="source_9.pth", resolve=lambda _: source)
    assert source.exists()


def test_a_truncated_latest_file_does_not_win_by_its_date(run: Path) -> None:
    """A damaged regular file latest.pth, however new on disk, neither is chosen nor is in the way."""
    torch.save({"model": {}, "epoch": 5, "iteration": 60}, run / "ckpt_epoch_5.pth")
    (run / "latest.pth").write_bytes((run / "ckpt_epoch_5.pth").read_bytes()[:-20])
    choice = choose_newest(run)
    assert choice is not None
    assert choice.path.name == "ckpt_epoch_5.pth"
    assert "latest.pth" in names(run)
