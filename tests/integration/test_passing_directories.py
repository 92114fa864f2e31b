"""Directories of shards handed from rank to rank: whole, or some of their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import CorruptCheckpointError, InsufficientSpaceError, PinMismatchError
from linnaeus.files import file_digest
from linnaeus.resolving import _passing_directory as passing
from linnaeus.resolving import facts_of, pass_files, pass_on
from support.directories import content, names
from support.threads_as_ranks import run_ranks

NAME = "x.sharded"
PIECE = 8 << 20


@pytest.fixture
def nodes(tmp_path: Path) -> Sequence[Path]:
    """Directories of three ranks, of which the first has a checkpoint of several pieces."""
    places = [tmp_path / f"node{rank}" for rank in range(3)]
    for place in places:
        place.mkdir()
    noise = torch.randn(3 * PIECE // 4, generator=torch.Generator().manual_seed(0))
    pth.save_sharded({"model": {"w": noise}, "epoch": 3}, places[0] / NAME)
    return places


def _handed(nodes: Sequence[Path], members: Sequence[int] = (0, 1, 2), **more: Any) -> dict[int, Any]:
    def act(group: Group) -> None:
        path = nodes[group.rank] / NAME
        told = group.decide_once("facts", lambda: facts_of(path), by=members[0])
        pass_on(group, "handing it on", list(members), told, path, **more)

    return run_ranks(3, act, passing=True)


def test_a_whole_directory_is_handed_on(nodes: Sequence[Path]) -> None:
    """It appears whole on those who take part, byte for byte, and nothing is left beside it."""
    assert _handed(nodes, (0, 2)) == dict.fromkeys(range(3))
    assert content(nodes[2] / NAME) == content(nodes[0] / NAME)
    assert names(nodes[1]) == []
    assert names(nodes[2]) == [".linnaeus", NAME]
    assert not list((nodes[2] / ".linnaeus").glob("*.part*"))
    assert pth.verify(nodes[2] / NAME).ok


def test_a_directory_of_torch_is_handed_on(nodes: Sequence[Path]) -> None:
    """One without a commit file too, by the digests that the sender finds."""
    (nodes[0] / NAME / pth.COMMIT).unlink()
    (nodes[0] / NAME).rename(nodes[0] / "plain")
    assert run_ranks(3, _sharing(nodes, "plain"), passing=True) == dict.fromkeys(range(3))
    assert content(nodes[1] / "plain") == content(nodes[0] / "plain")


def _sharing(nodes: Sequence[Path], name: str) -> Callable[[Group], None]:
    def act(group: Group) -> None:
        path = nodes[group.rank] / name
        pass_on(group, "x", [0, 1, 2], group.decide_once("x", lambda: facts_of(path)), path)

    return act


def test_a_damaged_file_is_refused_where_it_arrives(nodes: Sequence[Path]) -> None:
    """The digests of the commit file are compared with what came; nothing appears, on any rank."""
    shard = nodes[0] / NAME / _shard(nodes)
    shard.write_bytes(_altered(shard.read_bytes()))
    outcomes = _handed(nodes)
    assert {type(outcome) for outcome in outcomes.values()} == {CorruptCheckpointError}
    assert shard.name in str(outcomes[0])
    assert [names(place) for place in nodes[1:]] == [[".linnaeus"]] * 2
    assert not list((nodes[1] / ".linnaeus").glob("*.part*"))


def _shard(nodes: Sequence[Path]) -> str:
    """Return the name of the largest file."""
    return max((nodes[0] / NAME).iterdir(), key=lambda file: file.stat().st_size).name


def _altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_directory_without_one_of_its_files_is_not_handed_on(nodes: Sequence[Path]) -> None:
    """The sender finds it before anything is sent."""
    (nodes[0] / NAME / _shard(nodes)).unlink()
    assert {type(outcome) for outcome in _handed(nodes).values()} == {CorruptCheckpointError}


def test_what_was_never_finished_is_not_handed_on(nodes: Sequence[Path]) -> None:
    """Without its commit file it does not pass for a directory that torch wrote."""
    (nodes[0] / NAME / pth.COMMIT).unlink()
    outcomes = _handed(nodes)
    assert {type(outcome) for outcome in outcomes.values()} == {CorruptCheckpointError}
    assert "never finished" in str(outcomes[1])
    assert not (nodes[1] / NAME).exists()


def test_a_wrong_pin_is_refused(nodes: Sequence[Path]) -> None:
    """The digest of a directory is that of its commit file."""
    digest = file_digest(nodes[0] / NAME / pth.COMMIT, "sha256")
    outcomes = _handed(nodes, expected="0" * 64)
    assert {type(outcome) for outcome in outcomes.values()} == {PinMismatchError}
    assert digest in str(outcomes[0])
    assert not (nodes[1] / NAME).exists()
    assert _handed(nodes, expected=digest) == dict.fromkeys(range(3))


def test_what_had_arrived_is_gone_on_with(nodes: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full disk on one rank the next try begins where it was; no byte of it is sent twice."""
    keep, asked = passing.FilesArrival._keep, list[int]()

    def full(arrival: Any, file: Any, part: memoryview, offset: int) -> None:
        if "node2" in str(arrival._directory) and offset >= 2 * PIECE:
            raise OSError(28, "No space left on device", "data")
        keep(arrival, file, part, offset)

    with monkeypatch.context() as patched:
        patched.setattr(passing.FilesArrival, "_keep", full)
        outcomes = _handed(nodes)
    assert {type(outcome) for outcome in outcomes.values()} == {InsufficientSpaceError}
    assert not (nodes[2] / NAME).exists()
    give = passing.DirectorySource.each

    def noted(source: Any, piece: memoryview, at: int) -> None:
        asked.append(at)
        give(source, piece, at)

    monkeypatch.setattr(passing.DirectorySource, "each", noted)
    assert _handed(nodes, (0, 2)) == dict.fromkeys(range(3))
    assert min(asked) >= 2 * PIECE
    assert content(nodes[2] / NAME) == content(nodes[0] / NAME)


def test_what_is_left_of_an_earlier_one_does_not_mix(
    nodes: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of another directory of the same name, or wrong ones, never get into this one."""
    keep = passing.FilesArrival._keep

    def cut(arrival: Any, file: Any, part: memoryview, offset: int) -> None:
        keep(arrival, file, part, offset)
        raise OSError(28, "No space left on device", "data")

    with monkeypatch.context() as patched:
        patched.setattr(passing.FilesArrival, "_keep", cut)
        _handed(nodes)
    pth.save_sharded({"model": {"w": torch.zeros(3 * PIECE // 4)}, "epoch": 4}, nodes[0] / NAME)
    assert _handed(nodes) == dict.fromkeys(range(3))
    assert content(nodes[1] / NAME) == content(nodes[0] / NAME)


def test_some_files_are_handed_on_alone(nodes: Sequence[Path]) -> None:
    """They come whole into a directory that may be there; what is damaged there is replaced, others stay."""
    into, shard = nodes[1] / ".half", _shard(nodes)
    into.mkdir()
    (into / "other").write_text("mine")
    (into / shard).write_text("damaged")

    def act(group: Group) -> None:
        told = group.decide_once("x", lambda: facts_of(nodes[0] / NAME, [shard]))
        pass_files(group, "x", [0, 1], told, nodes[0] / NAME if group.rank == 0 else into)

    assert run_ranks(3, act, passing=True) == dict.fromkeys(range(3))
    assert (into / shard).read_bytes() == (nodes[0] / NAME / shard).read_bytes()
    assert names(into) == [shard, "other"]
    assert names(nodes[2]) == []


def test_a_damaged_file_does_not_get_its_name(nodes: Sequence[Path]) -> None:
    """Also where files are handed on alone: it is refused, and what stood under its name still does."""
    into, shard = nodes[1] / ".half", _shard(nodes)
    into.mkdir()
    (into / shard).write_text("older")
    damaged = nodes[0] / NAME / shard
    damaged.write_bytes(_altered(damaged.read_bytes()))

    def act(group: Group) -> None:
        told = group.decide_once("x", lambda: facts_of(nodes[0] / NAME, [".metadata", shard]))
        pass_files(group, "x", [0, 1], told, nodes[0] / NAME if group.rank == 0 else into)

    assert {type(outcome) for outcome in run_ranks(3, act, passing=True).values()} == {CorruptCheckpointError}
    assert (into / shard).read_text() == "older"
    assert names(into) == [shard]


def test_files_of_two_ranks_make_one_directory(nodes: Sequence[Path]) -> None:
    """Where each has some of them, all come together; a file that a rank lacks is told before any is sent."""
    shard = _shard(nodes)
    shutil.copytree(nodes[0] / NAME, nodes[1] / NAME)
    (nodes[0] / NAME / ".metadata").unlink()
    (nodes[1] / NAME / shard).unlink()

    def act(group: Group) -> None:
        for source, chosen in ((0, [shard]), (1, [".metadata", pth.COMMIT])):
            path = nodes[group.rank] / NAME
            told = group.decide_once("x", lambda: facts_of(path, chosen), by=source)  # noqa: B023
            pass_files(group, "x", [source, 2], told, path)

    assert run_ranks(3, act, passing=True) == dict.fromkeys(range(3))
    assert pth.verify(nodes[2] / NAME).ok
    with pytest.raises(CorruptCheckpointError, match="missing"):
        facts_of(nodes[1] / NAME, [shard])
    with pytest.raises(CorruptCheckpointError, match="tells of no"):
        facts_of(nodes[1] / NAME, ["another"])


def test_empty_files_are_handed_on(nodes: Sequence[Path]) -> None:
    """A file without a byte is a file."""
    plain = nodes[0] / "plain"
    shutil.copytree(nodes[0] / NAME, plain)
    (plain / pth.COMMIT).unlink()
    (plain / "__1_0.distcp").touch()
    assert run_ranks(3, _sharing(nodes, "plain"), passing=True) == dict.fromkeys(range(3))
    assert content(nodes[2] / "plain") == content(plain)
