"""One file from many ranks: byte for byte what one process writes."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import PeerFailedError, SaveError
from linnaeus.pth._shares import Sum, even_ranges, joined, packed, unpacked
from support.threads_as_ranks import run_ranks


def _state() -> dict[str, Any]:
    stream = torch.Generator().manual_seed(0)  # of its own, since ranks are threads here
    return {
        "split": torch.randn(13, 50, generator=stream),
        "columns": torch.randn(6, 8, generator=stream),
        "alike": torch.randn(9000, generator=stream),
        "also": torch.arange(5000, dtype=torch.int16),
        "first": torch.randn(100, generator=stream),
        "empty": torch.empty(0, 3),
        "number": 7,
    }


def _share(state: dict[str, Any], group: Group, shares: pth.Shares) -> dict[str, Any]:
    """Give a rank its rows of one tensor and its columns of another, and only those."""
    rows = state["split"].tensor_split(group.world_size)
    start = sum(len(part) for part in rows[: group.rank]) * 200
    columns = state["columns"].tensor_split(group.world_size, 1)
    first = sum(part.shape[1] for part in columns[: group.rank]) * 4

    def in_rows() -> Sequence[pth.Piece]:
        return [pth.Piece(start, rows[group.rank].clone())]

    def in_columns() -> Sequence[pth.Piece]:
        part = columns[group.rank].contiguous()
        return [pth.Piece(first + 32 * number, row) for number, row in enumerate(part)]

    shares.alike(state["alike"])
    shares.alike(state["also"])
    return state | {
        "split": shares.split((13, 50), torch.float32, in_rows),
        "columns": shares.split((6, 8), torch.float32, in_columns),
        "first": state["first"] if group.rank == 0 else torch.full((100,), torch.nan),
        "number": 7 if group.rank == 0 else 10**30,
    }


def _save(path: Path, group: Group, **changes: Any) -> None:
    shares = pth.Shares()
    obj = _share(_state(), group, shares) | changes
    pth.save_together(obj, path, shares=shares, ranks=group, about={"epoch": 3})


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 20])
def test_any_number_of_ranks_writes_what_one_would(tmp_path: Path, world_size: int) -> None:
    """The file is whole, torch reads it, and every tensor is bit for bit the full one."""
    path = tmp_path / "x.pth"
    assert set(run_ranks(world_size, lambda group: _save(path, group)).values()) == {None}
    assert pth.verify(path).error is None
    for loaded in (pth.load(path), torch.load(path, weights_only=True, mmap=True)):
        for name, value in _state().items():
            assert torch.equal(torch.as_tensor(loaded[name]), torch.as_tensor(value)), name
    assert pth.describe(path).about == {"epoch": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pth"]


def test_the_bytes_are_those_of_one_process(tmp_path: Path) -> None:
    """Beside the time of writing in the description, ranks and one process write the same file."""
    run_ranks(3, lambda group: _save(tmp_path / "ranks.pth", group))
    pth.save(_state(), tmp_path / "one.pth", about={"epoch": 3})
    many, one = ((tmp_path / name).read_bytes() for name in ("ranks.pth", "one.pth"))
    payloads = one.index(b"linnaeus.json")
    assert many[:payloads] == one[:payloads]


def test_ranks_with_other_tensors_are_refused(tmp_path: Path) -> None:
    """When a rank holds another structure, nothing is written and the message names it."""
    path = tmp_path / "x.pth"

    def act(group: Group) -> None:
        _save(path, group, **({"more": torch.ones(3)} if group.rank == 2 else {}))

    outcomes = run_ranks(4, act)
    assert isinstance(outcomes[0], SaveError)
    assert "ranks 2 hold other tensors than rank 0" in str(outcomes[0])
    assert all(isinstance(outcomes[rank], PeerFailedError) for rank in (1, 2, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", [0, 4, 2600])
def test_a_gap_or_an_overlap_is_no_checkpoint(tmp_path: Path, start: int) -> None:
    """Pieces that do not join to the whole tensor are found before the commit."""
    path = tmp_path / "x.pth"

    def act(group: Group) -> None:
        shares = pth.Shares()
        pieces = [pth.Piece(0, torch.zeros(650))] if group.rank else [pth.Piece(start, torch.zeros(1))]
        obj = {"t": shares.split((651,), torch.float32, lambda: pieces)}
        pth.save_together(obj, path, shares=shares, ranks=group)

    outcome = run_ranks(2, act)[0]
    if start == 2600:
        assert outcome is None
        assert path.exists()
    else:
        assert "does not join" in str(outcome)
        assert not list(tmp_path.iterdir())


def test_a_failing_rank_leaves_the_old_file(tmp_path: Path) -> None:
    """When one rank can't write, all raise and what stood there still does."""
    path = tmp_path / "x.pth"
    run_ranks(3, lambda group: _save(path, group))
    before = path.read_bytes()

    def act(group: Group) -> None:
        def fail() -> Sequence[pth.Piece]:
            if group.rank == 1:
                raise OSError(28, "No space left on device")
            return [pth.Piece(0, torch.ones(4))] if group.rank == 0 else []

        shares = pth.Shares()
        obj = {"t": shares.split((4,), torch.float32, fail)}
        pth.save_together(obj, path, shares=shares, ranks=group)

    outcomes = run_ranks(3, act)
    assert "the disk became full on rank 1" in str(outcomes[1])
    assert [outcomes[rank].ranks for rank in (0, 2)] == [[1], [1]]
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pth"]


@given(st.lists(st.integers(0, 50_000), max_size=8), st.integers(1, 9))
def test_even_ranges_cover_everything_once(sizes: list[int], world_size: int) -> None:
    """All ranks' ranges together are each storage, and no rank has more than its part and a block."""
    parts = [even_ranges(sizes, rank, world_size) for rank in range(world_size)]
    for number, size in enumerate(sizes):
        spans = [ranges[number] for ranges in parts if ranges[number][1]]
        bounds = [0, *(end for _, end in spans)]
        assert [start for start, _ in spans] == bounds[:-1]
        assert bounds[-1] == size
    assert all(
        sum(end - start for start, end in ranges) <= sum(sizes) / world_size + 4096 for ranges in parts
    )


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6), st.randoms())
def test_joined_checksums_are_those_of_the_whole(data: bytes, cuts: list[int], random: Any) -> None:
    """However the bytes are cut and in whatever order, the sums combine to zlib's of the whole."""
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    sums = [Sum(5, a, b - a, zlib.crc32(data[a:b])) for a, b in itertools.pairwise(bounds)]
    random.shuffle(sums)
    whole = [Sum(5, 0, len(data), zlib.crc32(data))] if data else []
    assert list(joined(sums)) == whole == unpacked(packed(sums))
