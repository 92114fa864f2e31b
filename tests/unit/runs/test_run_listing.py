"""What a run's directory holds, told by the files themselves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import CorruptCheckpointError, UnsafeCheckpointError
from linnaeus.runs import checkpoint_name, list_checkpoints, numbers_in_name, read_checkpoint
from support.pickles import Call, archive, dumps


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("checkpoint_epoch_3.pth", (3, 0)),
        ("checkpoint_epoch_12_step_345.pth", (12, 345)),
        ("ckpt_epoch_0.pth", (1, 0)),
        ("latest.pth", (0, 0)),
        ("best.pth", None),
        ("checkpoint_epoch_3.pth.invalid", None),
        ("checkpoint_epoch_3_step_.pth", None),
        (".checkpoint_epoch_3.pth.1234abcd-1-1-1234abcd.tmp", None),
        ("my_checkpoint_epoch_3.pth", None),
        ("checkpoint_epoch_-1.pth", None),
        ("checkpoint_epoch_3.pth\n", None),
        ("ckpt_epoch_best.pth", None),
    ],
)
def test_names_tell_their_numbers(name: str, numbers: tuple[int, int] | None) -> None:
    """Only a run's own files are listed; earlier versions counted epochs from 0."""
    assert numbers_in_name(name) == numbers


def test_names_are_made_as_they_are_read() -> None:
    """A name made is a name understood."""
    assert checkpoint_name(3) == "checkpoint_epoch_3.pth"
    assert checkpoint_name(3, 40) == "checkpoint_epoch_3_step_40.pth"
    assert numbers_in_name(checkpoint_name(30, 45)) == (30, 45)


def put(path: Path, **about: Any) -> Path:
    """Write a small checkpoint that says this of itself."""
    linnaeus.save({"model": {"w": torch.ones(2)}}, path, about=about)
    return path


def test_newest_first_by_what_the_files_say(tmp_path: Path) -> None:
    """Neither names nor times on disk decide, but epoch and step inside the files."""
    put(tmp_path / "checkpoint_epoch_10.pth", epoch=10, step=100)
    put(tmp_path / "checkpoint_epoch_9.pth", epoch=9, step=90)
    put(tmp_path / "checkpoint_epoch_9_step_99.pth", epoch=9, step=99, step_in_epoch=9)
    put(tmp_path / "checkpoint_epoch_1.pth", epoch=11, step=7)
    found = list_checkpoints(tmp_path)
    assert [(c.epoch, c.step) for c in found] == [(11, 7), (10, 100), (9, 99), (9, 90)]
    assert [c.ends_epoch for c in found] == [True, True, False, True]
    assert all(c.problem is None and c.size_bytes == c.path.stat().st_size for c in found)


def test_links_and_strangers_are_not_listed(tmp_path: Path) -> None:
    """Links for people, files moved aside, temporaries and other files decide nothing."""
    put(tmp_path / "checkpoint_epoch_1.pth", epoch=1, step=1)
    (tmp_path / "latest.pth").symlink_to("checkpoint_epoch_1.pth")
    (tmp_path / "checkpoint_epoch_7.pth").symlink_to("checkpoint_epoch_1.pth")
    for name in ("checkpoint_epoch_2.pth.invalid", "notes.txt", ".checkpoint_epoch_3.pth.x.tmp", "best.pth"):
        (tmp_path / name).write_bytes(b"x")
    assert [c.path.name for c in list_checkpoints(tmp_path)] == ["checkpoint_epoch_1.pth"]


def test_a_directory_that_is_not_there_holds_none(tmp_path: Path) -> None:
    """A run that has not begun has no checkpoints, which is no error."""
    assert list_checkpoints(tmp_path / "nothing") == []


def test_damaged_ones_are_listed_with_their_problem(tmp_path: Path) -> None:
    """A damaged file keeps the place that its name gives it, and tells why it can't be used."""
    put(tmp_path / "checkpoint_epoch_1.pth", epoch=1, step=10)
    path = put(tmp_path / "checkpoint_epoch_2_step_15.pth", epoch=2, step=15)
    path.write_bytes(path.read_bytes()[:-30])
    evil = archive(tmp_path / "checkpoint_epoch_3.pth", dumps(Call("os", "system", "true")))
    found = list_checkpoints(tmp_path)
    assert [c.path.name for c in found] == [evil.name, path.name, "checkpoint_epoch_1.pth"]
    assert isinstance(found[0].problem, UnsafeCheckpointError)
    assert isinstance(found[1].problem, CorruptCheckpointError)
    assert (found[1].order, found[1].size_bytes) == ((2, 15), path.stat().st_size)
    (tmp_path / "checkpoint_epoch_4.pth").mkdir()
    assert list_checkpoints(tmp_path)[0].problem is not None


def test_metrics_are_numbers_again(tmp_path: Path) -> None:
    """NaN and infinities, which JSON has not, come back; what is no number is left out."""
    metrics = {"loss": float("nan"), "top": float("inf"), "low": float("-inf"), "n": 3, "who": "me"}
    found = read_checkpoint(put(tmp_path / "x.pth", epoch=1, step=2, metrics=metrics))
    assert found.metric("loss") is None
    assert (found.metric("top"), found.metric("low"), found.metric("n")) == (float("inf"), float("-inf"), 3.0)
    assert found.metric("who") is None
    assert found.metric("missing") is None


@pytest.mark.parametrize("new_format", [True, False])
def test_files_of_earlier_versions_are_listed(tmp_path: Path, new_format: bool) -> None:
    """Their epochs count from 0 and name the one just trained; a regular file latest.pth is one of them."""
    old = {"model": {}, "optimizer": {}, "lr_scheduler": {}, "config": argparse.Namespace(a=1)}
    for name, epoch in (("ckpt_epoch_3.pth", 3), ("ckpt_epoch_12.pth", 12), ("latest.pth", 13)):
        torch.save(
            old | {"epoch": epoch, "iteration": epoch * 100},
            tmp_path / name,
            _use_new_zipfile_serialization=new_format,
        )
    found = list_checkpoints(tmp_path)
    assert [(c.path.name, c.epoch, c.step) for c in found] == [
        ("latest.pth", 14, 1300), ("ckpt_epoch_12.pth", 13, 1200), ("ckpt_epoch_3.pth", 4, 300),
    ]  # fmt: skip
    assert [c.ends_epoch for c in found] == [False, True, True]


def test_earlier_files_without_an_iteration_are_counted_alike(tmp_path: Path) -> None:
    """Their name or their training_progress tells as well that they count from 0."""
    torch.save({"model": {}, "epoch": 3}, tmp_path / "ckpt_epoch_3.pth")
    torch.save({"model": {}, "epoch": 3, "training_progress": {"global_step": 5}}, tmp_path / "latest.pth")
    torch.save({"model": {}, "epoch": 3}, tmp_path / "theirs.pth")
    assert [c.epoch for c in list_checkpoints(tmp_path)] == [4, 4]
    assert read_checkpoint(tmp_path / "theirs.pth").epoch == 3
