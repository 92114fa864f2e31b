"""Directories of shards written from memory that changes meanwhile: they hold what was there before."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnaeus import pth
from linnaeus.distributed import Group
from linnaeus.errors import PeerFailedError, SaveError, TornSaveError
from linnaeus.pth import _save_sharded
from linnaeus.pth._tape import Tapes
from linnaeus.state import Guard, SpareMemory
from support.threads_as_ranks import run_ranks
from support.trees import same


def odd() -> dict[str, Any]:
    """Return tensors of every way to lie in a storage."""
    flat, mixed, tangled = torch.arange(300.0), torch.arange(64, dtype=torch.uint8), torch.arange(40.0)
    return {
        "rows": torch.randn(40, 9),
        "turned": torch.randn(3, 8, 5, 4).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "flat": [flat[7:107].view(4, 25), flat[200:].view(10, 10).t(), flat[120:121]],  # with gaps between
        "mixed": [mixed[8:24].view(torch.float32), mixed[1:4]],
        "tangled": [tangled[:30], tangled[10:].view(5, 6).t(), tangled[::3]],
        "number": 7,
    }


def guarding(state: dict[str, Any], narrow: Any = None) -> tuple[dict[str, Any], Guard, SpareMemory]:
    """Return a content whose tensors a guard keeps as they are, though they are the state's own."""
    tensors: dict[Any, torch.Tensor] = {}

    def lend(node: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[path] = node
            return path
        if isinstance(node, dict):
            return {key: lend(value, (*path, key)) for key, value in node.items()}
        return (
            [lend(one, (*path, number)) for number, one in enumerate(node)]
            if isinstance(node, list)
            else node
        )

    shape, handles, spare = lend(state, ()), {}, SpareMemory()
    guard = Guard([(tensors, handles)], spare, narrow)
    guard.settle()

    def put(node: Any) -> Any:
        if isinstance(node, tuple):
            return handles[node]
        if isinstance(node, dict):
            return {key: put(value) for key, value in node.items()}
        return [put(one) for one in node] if isinstance(node, list) else node

    return put(shape), guard, spare


class Meddling:
    """A guard behind whose back the run goes on: everything is changed after so many pieces."""

    def __init__(self, guard: Guard, state: dict[str, Any], after: int, *, announced: bool) -> None:
        self._guard, self._state, self._left, self._announced = guard, state, after, announced

    def pieces(self, storage: torch.UntypedStorage) -> Iterator[memoryview]:
        for piece in self._guard.pieces(storage):
            yield piece
            self._left -= 1
            if self._left == 0:
                self._change()

    def _change(self) -> None:
        if self._announced:
            self._guard.release()
        for tensor in tensors_of(self._state):
            tensor.data.fill_(1)

    def require_same(self, crc32s: Any) -> None:
        self._guard.require_same(crc32s)

    def finish(self) -> None:
        self._guard.finish()


def tensors_of(node: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a state."""
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, (dict, list)):
        for one in node.values() if isinstance(node, dict) else node:
            yield from tensors_of(one)


def copied(node: Any) -> Any:
    """Return a copy of a state."""
    if isinstance(node, torch.Tensor):
        return node.clone()
    if isinstance(node, dict):
        return {key: copied(value) for key, value in node.items()}
    return [copied(one) for one in node] if isinstance(node, list) else node


@pytest.mark.parametrize("block_bytes", [16, 500, 16 << 20])
@pytest.mark.parametrize("after", [1, 5, 17])
def test_a_step_in_the_middle_of_writing_changes_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, after: int
) -> None:
    """However tensors lie in memory, and in however many blocks they are written."""
    monkeypatch.setattr("linnaeus.state._guard._PIECE_BYTES", 48)
    monkeypatch.setattr(_save_sharded, "_HELD_BYTES", block_bytes)
    state = odd()
    expected = copied(state)
    content, guard, _ = guarding(state)
    guard.presum()
    held = Meddling(guard, state, after, announced=True)
    pth.save_sharded(content, tmp_path / "a.sharded", held=held)
    assert bool((state["rows"] == 1).all())
    assert same(pth.load(tmp_path / "a.sharded"), expected)
    assert pth.verify(tmp_path / "a.sharded").ok


@pytest.mark.parametrize("name", ["rows", "flat", "tangled"])
def test_what_changes_unannounced_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A write through `.data` is found before there is a checkpoint; the one before stays."""
    monkeypatch.setattr("linnaeus.state._guard._PIECE_BYTES", 48)
    path, state = tmp_path / "a.sharded", {name: odd()[name]}
    pth.save_sharded(copied(state), path, about={"epoch": 1})
    before = pth.describe(path)
    content, guard, _ = guarding(state)
    guard.presum()
    with pytest.raises(TornSaveError, match=r"changed outside an optimizer's step.*before_mutation"):
        pth.save_sharded(content, path, held=Meddling(guard, state, 1, announced=False))
    assert pth.describe(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sharded"]


def test_what_is_not_waited_for_is_not_copied(tmp_path: Path) -> None:
    """Where nobody comes back before the end, there is no copy of anything."""
    content, guard, spare = guarding(odd())
    pth.save_sharded(content, tmp_path / "a.sharded", held=guard)
    guard.release()
    assert spare.size_bytes == 0


def test_all_ranks_hear_that_one_s_part_was_changed(tmp_path: Path) -> None:
    """Every rank raises the same, which says whose it was, and the checkpoint before stays."""
    path = tmp_path / "a.sharded"

    def own(storage: torch.UntypedStorage, shares: pth.Shares, group: Group) -> list[torch.UntypedStorage]:
        shares.alike(torch.empty(0).set_(storage))
        return [piece.source.untyped_storage() for piece in shares.region_of(storage, group.rank, 3)]

    def save(group: Group, *, is_torn: bool) -> None:
        state, shares = {"w": torch.full((600_000,), 3.0)}, pth.Shares()
        content, guard, _ = guarding(state, lambda one: own(one, shares, group))
        guard.presum()
        if is_torn:
            state["w"].data.fill_(1)
        pth.save_sharded(content, path, shares=shares, ranks=group, held=guard, about={"torn": is_torn})

    assert set(run_ranks(3, lambda group: save(group, is_torn=False)).values()) == {None}
    before = pth.describe(path)
    found = run_ranks(3, lambda group: save(group, is_torn=group.rank == 1))
    for error in found.values():
        assert isinstance(error, TornSaveError)
        assert "(rank 1)" in str(error)
    assert pth.describe(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sharded"]


def test_what_one_rank_cannot_lay_out_is_told_to_all(tmp_path: Path) -> None:
    """A rank that holds what a directory can't leaves nobody waiting."""

    def save(group: Group) -> None:
        state = {"w": torch.ones(3), "odd": object() if group.rank == 1 else 1}
        pth.save_sharded(state, tmp_path / "a.sharded", ranks=group)

    found = run_ranks(2, save)
    assert isinstance(found[1], SaveError)
    assert isinstance(found[0], PeerFailedError)
    assert list(found[0].ranks) == [1]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 9), st.data())
def test_a_tape_gives_any_rising_parts_and_the_sum_of_all(
    data: bytes, piece: int, draw: st.DataObject
) -> None:
    """Parts with gaps between them, of pieces of any size; its sum is that of all bytes."""
    storage = torch.frombuffer(bytearray(data or b"x"), dtype=torch.uint8).untyped_storage()
    data = data or b"x"
    tapes = Tapes(lambda _: (memoryview(data)[at : at + piece] for at in range(0, len(data), piece)))
    bounds = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    for start, end in zip(bounds[::2], bounds[1::2], strict=False):
        assert bytes(tapes.of(storage).part(start, end).tolist()) == data[start:end]
    tapes.of(storage)
    assert tapes.finish() == {storage._cdata: zlib.crc32(data)}
