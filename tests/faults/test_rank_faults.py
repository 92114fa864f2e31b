"""One of several real ranks fails, is killed, or is stopped: the others know, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linnaeus.resuming import choose_newest
from support.torchrun import on_ranks, ranks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["pth", "sharded"])
def test_misfortunes_of_one_rank_are_told_on_all(tmp_path: Path, form: str) -> None:
    """A refusing disk, other tensors, an empty disk, an older listing: all ranks know, and go on alike."""
    on_ranks(2, tmp_path, f"survives_misfortunes:{form}")
    names = [path.name for path in (tmp_path / "run").glob(f"checkpoint*.{form}")]
    assert sorted(names) == [f"checkpoint_epoch_0.{form}", f"checkpoint_epoch_0_step_1.{form}"]


@pytest.mark.parametrize(
    ("victim", "stage", "how"),
    [
        (1, "begin", "killed"),
        (2, "writing", "killed"),
        (0, "written", "killed"),
        (0, "end", "killed"),
        (1, "writing", "stopped"),
    ],
)
def test_a_lost_rank_is_named_by_all_others(tmp_path: Path, victim: int, stage: str, how: str) -> None:
    """The others raise, naming it, and the previous checkpoint is the newest valid one."""
    with ranks(3, tmp_path, f"dies:{victim}:{stage}:{how}") as started:
        for rank, process in enumerate(started):
            if rank != victim:
                assert process.wait(timeout=60) == 0
    others = [rank for rank in range(3) if rank != victim]
    assert [json.loads((tmp_path / f"met_{rank}.json").read_text()) for rank in others] == [[victim]] * 2
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.path.name == "checkpoint_epoch_0.pth"
    assert choice.passed_over == ()


def test_a_failing_save_is_raised_at_one_step_by_all(tmp_path: Path) -> None:
    """A full disk or a refused commit beside training: told at the next step, once, older files untouched."""
    on_ranks(2, tmp_path, "fails:0", "fails:1")


def test_a_disk_that_hangs_is_given_up_and_never_published(tmp_path: Path) -> None:
    """The rank itself tells where it hangs, the others name it, and once it is back all save again."""
    on_ranks(2, tmp_path, "hangs")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_while_it_writes_is_named(tmp_path: Path, victim: int) -> None:
    """Killed in its writer, beside training: the others raise within the deadline; no file is left behind."""
    with ranks(2, tmp_path, f"dies_beside_training:{victim}") as started:
        assert started[1 - victim].wait(timeout=60) == 0
    named, _ = (tmp_path / f"met_{1 - victim}").read_text().rsplit(" ", 1)
    assert named == f"[{victim}]"
    names = sorted(entry.name for entry in (tmp_path / "run").glob("*checkpoint*"))
    assert names == ["checkpoint_epoch_0_step_1.pth"]
