"""`linnaeus ls`, `inspect` and `verify` as people run them: what they show of files, also of bad ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import linnaeus as library
from support.directories import names
from support.program import (
    bucket_options,
    cache_options,
    directory_options,
    linnaeus,
)


@pytest.fixture
def unsafe_file(tmp_path: Path) -> Path:
    """Return a checkpoint that asks for code."""
    import torch

    path = tmp_path / "unsafe.pth"
    torch.save({"model": torch.zeros(3), "evil": _Evil()}, path)
    return path


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was_executed",)


# ls


def test_ls_lists_the_cache_and_marks_what_is_damaged(
    tmp_path: Path, cache: Path, checkpoint_file: Path, unsafe_file: Path
) -> None:
    """Each file has its size, kind and epoch; damaged, foreign and unsafe ones have their problem."""
    cache.mkdir()
    library.save({"epoch": 7}, cache / "ours.pth", about={"epoch": 7, "step": 70})
    shutil.copy(checkpoint_file, cache / "theirs.pth")
    shutil.copy(unsafe_file, cache / "unsafe.pth")
    (cache / "cut.pth").write_bytes(checkpoint_file.read_bytes()[:1000])
    (cache / ".linnaeus").mkdir()
    ended = linnaeus("ls", *cache_options(cache), cwd=tmp_path)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    size = (cache / "ours.pth").stat().st_size / 1000
    assert lines[0] == "name size kind epoch step"
    assert lines[1] == "cut.pth 1.00 kB"
    assert lines[2].startswith("damaged: ")
    assert f"ours.pth {size:.2f} kB linnaeus 7 70" in lines
    assert "theirs.pth 302 kB torch.save 3" in lines
    assert any(line.startswith("unsafe: asks for ") and line.endswith(".system") for line in lines)
    assert lines[-1].startswith("4 files, ")
    assert lines[-1].endswith(f" in {cache}")


def test_ls_lists_a_run_newest_first(tmp_path: Path) -> None:
    """A run's checkpoints stand newest first with epoch, step and metrics; the best one is marked."""
    run = tmp_path / "runs" / "a" / "checkpoints"
    run.mkdir(parents=True)
    for epoch in (2, 10):
        about = {"epoch": epoch, "step": epoch * 5, "metrics": {"loss": 1 / epoch}}
        library.save({"epoch": epoch}, run / f"checkpoint_epoch_{epoch}.pth", about=about)
    (run / "checkpoint_epoch_11.pth").write_bytes(b"PK\x03\x04 and no more")
    (run / "best.pth").symlink_to("checkpoint_epoch_2.pth")
    (run / "latest.pth").symlink_to("checkpoint_epoch_10.pth")
    listed = json.loads(linnaeus("ls", run, "--json", cwd=tmp_path).out)["checkpoints"]
    assert [(c["name"], c["epoch"], c["best"]) for c in listed] == [
        ("checkpoint_epoch_11.pth", 11, False),
        ("checkpoint_epoch_10.pth", 10, False),
        ("checkpoint_epoch_2.pth", 2, True),
    ]
    assert [c["problem"] is None for c in listed] == [False, True, True]
    assert listed[1]["metrics"] == {"loss": 0.1}
    shown = linnaeus("ls", run.parent, cwd=tmp_path).out.splitlines()
    assert shown[1].split() == ["checkpoint_epoch_11.pth", "11", "16", "B"]
    assert shown[2].startswith("    damaged: ")
    assert shown[3].split()[:3] == ["checkpoint_epoch_10.pth", "10", "50"]
    assert shown[4] == "    loss 0.1"
    assert shown[5].split()[-1] == "best"


def test_ls_lists_thedirectory_options(
    tmp_path: Path, cache: Path, local_bucket: Path, checkpoint_bytes: bytes
) -> None:
    """The bucket's files are listed with size, time, and whether the cache holds them too."""
    cache.mkdir()
    for name in ("y.pth", "z.pth"):
        (local_bucket / "modelZoo" / name).write_bytes(checkpoint_bytes)
    (cache / "x.pth").write_bytes(checkpoint_bytes)
    (cache / "y.pth").write_bytes(b"other")
    arguments = [
        "ls",
        "--remote",
        *directory_options(local_bucket),
        *bucket_options("ENABLED=false"),
        *cache_options(cache),
    ]
    listed = json.loads(linnaeus(*arguments, "--json", cwd=tmp_path).out)
    assert [(c["name"], c["in_cache"]) for c in listed["checkpoints"]] == [
        ("x.pth", "yes"),
        ("y.pth", "other size"),
        ("z.pth", "no"),
    ]
    assert all(c["size_bytes"] == len(checkpoint_bytes) and c["modified"] for c in listed["checkpoints"])
    shown = linnaeus(*arguments, cwd=tmp_path).out.splitlines()
    assert shown[0].split() == ["name", "size", "modified", "(UTC)", "in", "cache"]
    assert shown[-1] == f"3 files, 905 kB in directory {local_bucket}/modelZoo"


def test_ls_of_nothing(tmp_path: Path, cache: Path) -> None:
    """An empty place is said to be empty; a directory that is not there is an error."""
    assert linnaeus("ls", *cache_options(cache), cwd=tmp_path).out == f"no checkpoints in {cache}\n"
    missing = linnaeus("ls", "nowhere", cwd=tmp_path)
    assert (missing.code, missing.out) == (3, "")


# inspect


def test_inspect_shows_what_a_checkpoint_says_of_itself(tmp_path: Path) -> None:
    """Epoch, step, metrics, origin and tensors by module are shown, without unpickling or loading."""
    import torch

    state = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": {"m": torch.zeros(8), "v": torch.zeros(8)},
    }
    report = {"coverage": 0.987, "sources": [{"identifier": "a.pth"}, {"identifier": "b.pth"}]}
    about = {
        "epoch": 3,
        "step": 120,
        "step_in_epoch": 20,
        "metrics": {"loss": float("nan"), "accuracy": 0.5},
        "lineage": {"resumed_from": "old.pth", "pretrained": report},
        "config_digest": "0123456789abcdef0123",
    }
    library.save(state, tmp_path / "c.pth", about=about)
    ended = linnaeus("inspect", "c.pth", cwd=tmp_path)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    for expected in (
        "kind linnaeus",
        "epoch 3",
        "step 120 (20 in the epoch under way)",
        "metrics loss NaN, accuracy 50.0 %",
        "resumed from old.pth",
        "pretrained a.pth and b.pth (98.7 % arrived)",
        "keys model, optimizer",
        "tensors 4 tensors, 24 elements, 96 B",
        "model 2 tensors float32 8 32 B",
        "weight 2 x 3 float32 6 24 B",
        "optimizer 2 tensors, see --all float32 16 64 B",
        "total 4 tensors float32 24 96 B",
    ):
        assert expected in lines
    assert "m 8 float32 8 32 B" in [
        " ".join(line.split())
        for line in linnaeus("inspect", "--all", "c.pth", cwd=tmp_path).out.splitlines()
    ]
    plain = json.loads(linnaeus("inspect", "--json", "c.pth", cwd=tmp_path).out)
    assert plain["about"]["step"] == 120
    assert [tensor["name"] for tensor in plain["tensors"]] == [
        "model.weight",
        "model.bias",
        "optimizer.m",
        "optimizer.v",
    ]


def test_inspect_shows_what_can_be_shown_of_an_unsafe_file(tmp_path: Path, unsafe_file: Path) -> None:
    """An unsafe file is described, its globals are named, nothing is executed, and the exit code is 7."""
    for arguments in (["inspect", unsafe_file], ["inspect", "--json", unsafe_file]):
        ended = linnaeus(*arguments, cwd=tmp_path)
        assert ended.code == 7
        assert "model" in ended.out
        assert f"{os.system.__module__}.system" in ended.err
    assert names(tmp_path) == ["unsafe.pth"]


def test_inspect_and_verify_resolve_bare_names(
    tmp_path: Path, cache: Path, local_bucket: Path, checkpoint_file: Path
) -> None:
    """FILE may be a name as for resolve; a file of that name here comes first."""
    options = [*directory_options(local_bucket), *cache_options(cache)]
    assert str(cache / "x.pth") in linnaeus("inspect", "x.pth", *options, cwd=tmp_path).out
    (tmp_path / "x.pth").write_bytes(b"not a checkpoint")
    assert linnaeus("verify", "x.pth", *options, cwd=tmp_path).code == 6
    assert linnaeus("verify", "made/none.pth", *options, cwd=tmp_path).code == 3
    assert linnaeus("verify", checkpoint_file, *options, cwd=tmp_path).code == 0


# verify


def test_verify_names_the_damaged_tensor(tmp_path: Path, checkpoint_file: Path, unsafe_file: Path) -> None:
    """One line for each file says whether it is good; the exit code is that of the worst."""
    damaged = tmp_path / "damaged.pth"
    content = bytearray(checkpoint_file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    ended = linnaeus("verify", checkpoint_file, damaged, "none.pth", cwd=tmp_path)
    good, bad = ended.out.splitlines()
    assert good == f"ok  {checkpoint_file} (torch.save, 302 kB, 1 tensor; every byte checked)"
    assert bad.startswith("BAD ")
    assert "tensor model.weight" in bad
    assert "none.pth" in ended.err
    assert ended.code == 6
    assert linnaeus("verify", "--structure", damaged, cwd=tmp_path).code == 0
    worst = linnaeus("verify", "--json", unsafe_file, damaged, checkpoint_file, cwd=tmp_path)
    assert worst.code == 7
    assert [entry["exit_code"] for entry in json.loads(worst.out)] == [7, 6, 0]
