"""A part of a checkpoint, as a node that shares no directory has it: good in itself, never taken for all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, IncompleteCheckpointError
from linnaeus.pth import Piece, Shares
from linnaeus.resuming import choose_newest
from linnaeus.runs import list_checkpoints
from linnaeus.saving import Retention, decide
from support.program import linnaeus as run
from support.threads_as_ranks import run_ranks

NAME = "checkpoint_epoch_1.sharded"
WHOLE = torch.arange(4096.0)


def _save(rank: int, group: Group | None, path: Path) -> None:
    """Save a tensor of which each of two ranks has a half."""
    shares, half = Shares(), WHOLE.nbytes // 2
    mine = Piece(rank * half, WHOLE[rank * 2048 : rank * 2048 + 2048].clone())
    stand_in = shares.split(tuple(WHOLE.shape), WHOLE.dtype, lambda: [mine])
    about = {"epoch": 1, "step": 0, "step_in_epoch": 0, "run": "r", "metrics": {}}
    pth.save_sharded({"model": {"w": stand_in}, "epoch": 1}, path, shares=shares, ranks=group, about=about)


@pytest.fixture
def parts(tmp_path: Path) -> Sequence[Path]:
    """The directories of two nodes, which saved together."""
    nodes = [tmp_path / "node0", tmp_path / "node1"]
    nodes[0].mkdir()  # the other one is made when it is needed
    done = run_ranks(2, lambda group: _save(group.rank, group, nodes[group.rank] / NAME))
    assert done == {0: None, 1: None}
    return [node / NAME for node in nodes]


def test_each_is_whole_in_itself(parts: Sequence[Path]) -> None:
    """Same commit file and metadata, other shards; damage to what is here is damage."""
    for name in (pth.COMMIT, pth.METADATA):
        assert (parts[0] / name).read_bytes() == (parts[1] / name).read_bytes()
    shards = [{one.name for one in part.glob("*.distcp")} for part in parts]
    assert not shards[0] & shards[1]
    for part in parts:
        assert pth.verify(part, partly=True).ok
        assert {entry.name for entry in part.parent.iterdir()} == {NAME}
    shard = parts[1] / shards[1].pop()
    data = shard.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        shard.write_bytes(damaged)
        assert isinstance(pth.verify(parts[1], partly=True).error, CorruptCheckpointError)
    shard.write_bytes(data)
    (parts[1] / pth.METADATA).unlink()
    assert isinstance(pth.verify(parts[1], partly=True).error, CorruptCheckpointError)


def test_it_is_never_taken_for_all(parts: Sequence[Path]) -> None:
    """Loading and verifying it say what is missing and where it may be; describing it needs no more."""
    error = pth.verify(parts[0]).error
    assert isinstance(error, IncompleteCheckpointError)
    (other,) = parts[1].glob("*.distcp")
    assert error.missing == [other.name]
    assert "written into 2 directories" in str(error)
    assert "copy the files of all of these" in str(error)
    with pytest.raises(IncompleteCheckpointError, match=other.name):
        pth.load(parts[0])
    assert [tensor.shape for tensor in pth.describe(parts[0]).tensors] == [(4096,)]


def test_copied_together_they_are_a_checkpoint(parts: Sequence[Path], tmp_path: Path) -> None:
    """In any order, whatever stands in both."""
    for part in reversed(parts):
        shutil.copytree(part, tmp_path / "all.sharded", dirs_exist_ok=True)
    assert pth.verify(tmp_path / "all.sharded").ok
    assert torch.equal(pth.load(tmp_path / "all.sharded")["model"]["w"], WHOLE)


def test_a_process_alone_passes_it_over_and_leaves_it(parts: Sequence[Path]) -> None:
    """With nothing else it is an error and no fresh start; with an older one that is gone on from."""
    with pytest.raises(CheckpointInvalidError, match="is a part of a checkpoint"):
        choose_newest(parts[0].parent)
    older = parts[0].with_name("checkpoint_epoch_0.pth")
    pth.save({"model": {}, "epoch": 0}, older, about={"epoch": 0, "step": 0})
    choice = choose_newest(parts[0].parent)
    assert choice is not None
    assert choice.path == older
    assert "is a part of a checkpoint" in choice.passed_over[0]
    assert parts[0].is_dir()


def test_retention_counts_it(parts: Sequence[Path]) -> None:
    """It is no damaged file that would stay for ever."""
    found = list_checkpoints(parts[0].parent)
    assert [(one.is_usable, one.is_part) for one in found] == [(True, True)]
    newer = {one.name: "just saved" for one in found}
    assert [verdict.keep for verdict in decide(found, Retention(keep_last_n=1, keep_top_n=0), newer)] == [
        True
    ]


def test_the_command_says_so(parts: Sequence[Path], tmp_path: Path) -> None:
    """`linnaeus verify` ends with 6 and says what to do; `inspect` shows it."""
    done = run("verify", parts[0], cwd=tmp_path)
    assert done.code == 6
    assert "is a part of a checkpoint" in done.out + done.err
    shown = run("inspect", parts[0], "--json", cwd=tmp_path)
    assert json.loads(shown.out)["tensors"][0]["shape"] == [4096]
