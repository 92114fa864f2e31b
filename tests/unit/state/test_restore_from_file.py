"""A run is filled from a file: into the tensors that it has, and nothing of the file is needed afterwards."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.errors import CorruptCheckpointError, ResumeMismatchError
from linnaeus.pth import mapped_file
from linnaeus.state import RunParts, restore
from support.small_run import SmallRun
from support.trees import same


def trained(num_steps: int, **settings: Any) -> SmallRun:
    """Return a run that has done some steps."""
    run = SmallRun(**settings)
    for batch, _ in zip(run.loader, range(num_steps), strict=False):
        run.learn(batch)
    return run


def restored(parts: RunParts, path: Path) -> None:
    """Fill a run from a file, as a manager does."""
    with mapped_file(path) as source:
        restore(parts, source.content, str(path), complete=True, source=source)


def large_tensors(run: SmallRun) -> Iterator[torch.Tensor]:
    """Yield what training changes in place."""
    yield from run.model.state_dict(keep_vars=True).values()
    for state in run.optimizer.state.values():
        yield from state.values()


@pytest.mark.parametrize("write", [linnaeus.save, torch.save])
def test_a_run_gets_every_part_bit_for_bit(tmp_path: Path, write: Any) -> None:
    """From our files, read straight into memory, and from those that torch wrote."""
    run = trained(3)
    write(RunParts(**run.parts()).capture(), tmp_path / "a.pth")
    expected = copy.deepcopy(run.state())
    other = trained(1, seed=8)
    restored(RunParts(**other.parts()), tmp_path / "a.pth")
    assert same(other.state(), expected)


def test_tensors_that_are_there_are_kept_and_filled(tmp_path: Path) -> None:
    """No second copy is made: each tensor is the one it was, with the saved content and a new version."""
    run = trained(3)
    linnaeus.save(RunParts(**run.parts()).capture(), tmp_path / "a.pth")
    other = trained(2, seed=8)
    before = {id(t): (t.data_ptr(), t._version) for t in large_tensors(other)}
    restored(RunParts(**other.parts()), tmp_path / "a.pth")
    after = {id(t): (t.data_ptr(), t._version) for t in large_tensors(other)}
    assert {number: pointer for number, (pointer, _) in after.items()} == {
        number: pointer for number, (pointer, _) in before.items()
    }
    assert all(after[number][1] > before[number][1] for number in before)


def test_nothing_of_the_run_stays_in_the_file(tmp_path: Path) -> None:
    """Also the state of an optimizer that had none is memory of its own."""
    linnaeus.save(RunParts(**trained(3).parts()).capture(), tmp_path / "a.pth")
    other = SmallRun(seed=8)
    assert not other.optimizer.state
    with mapped_file(tmp_path / "a.pth") as source:
        restore(RunParts(**other.parts()), source.content, "a", complete=True, source=source)
        assert len(list(large_tensors(other))) > 8
        assert not any(source.holds(tensor) for tensor in large_tensors(other))


class Doubling(nn.Linear):
    """A layer that changes what it loads."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"] * 2
        super()._load_from_state_dict(state_dict, prefix, *others)


class Refusing(nn.Linear):
    """A layer that takes a state and then regrets it."""

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        raise RuntimeError("not today")


def test_a_layers_own_loading_sees_the_saved_state(tmp_path: Path) -> None:
    """What it does with it happens once."""
    linnaeus.save({"model": nn.Linear(3, 2).state_dict(), "rng": {}}, tmp_path / "a.pth")
    model = Doubling(3, 2)
    with mapped_file(tmp_path / "a.pth") as source:
        restore(RunParts(model=model), {"model": source.content["model"]}, "a", complete=False, source=source)
    assert torch.equal(model.weight, linnaeus.load(tmp_path / "a.pth")["model"]["weight"] * 2)


def test_a_layer_that_refuses_is_left_as_it_was(tmp_path: Path) -> None:
    """What its own code has taken before it refused is set back."""
    linnaeus.save({"model": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict()}, tmp_path / "a.pth")
    model = nn.Sequential(Refusing(3, 2), nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    with mapped_file(tmp_path / "a.pth") as source, pytest.raises(ResumeMismatchError, match="not today"):
        restore(RunParts(model=model), source.content, "a", complete=False, source=source)
    assert same(dict(model.state_dict()), dict(before))


def test_tied_weights_take_what_loading_would_give_them(tmp_path: Path) -> None:
    """Two names of one tensor, of which the file has two contents: the later one counts, as in torch."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    state = {"0.weight": torch.ones(2, 2), "1.weight": torch.full((2, 2), 2.0)}
    model[1].weight = model[0].weight
    linnaeus.save({"model": state}, tmp_path / "a.pth")
    with mapped_file(tmp_path / "a.pth") as source:
        restore(RunParts(model=model), source.content, "a", complete=False, source=source)
    assert model[0].weight is model[1].weight
    assert torch.equal(model[0].weight, state["1.weight"])


@pytest.mark.parametrize("target", ["transposed", "other type", "channels last", "part of a larger one"])
def test_memory_that_lies_otherwise_is_copied_to(tmp_path: Path, target: str) -> None:
    """Strides, types and offsets need not be those of the file."""
    weight = torch.rand(4, 3, 2, 2)
    linnaeus.save({"model": {"weight": weight}}, tmp_path / "a.pth")
    model = nn.Module()
    model.weight = {
        "transposed": lambda: nn.Parameter(torch.zeros(3, 4, 2, 2).transpose(0, 1)),
        "other type": lambda: nn.Parameter(torch.zeros(4, 3, 2, 2, dtype=torch.float64)),
        "channels last": lambda: nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "part of a larger one": lambda: nn.Parameter(torch.zeros(6, 3, 2, 2)[2:]),
    }[target]()
    strides = model.weight.stride()
    with mapped_file(tmp_path / "a.pth") as source:
        restore(RunParts(model=model), source.content, "a", complete=False, source=source)
    assert torch.equal(model.weight.to(torch.float32), weight)
    assert model.weight.stride() == strides


def test_a_file_that_shrinks_meanwhile_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The system would end a process that touches what is no more of a mapped file; reading tells."""
    path = tmp_path / "a.pth"
    linnaeus.save({"model": {"weight": torch.rand(1 << 16)}}, path)
    target = torch.zeros(1 << 16)
    with mapped_file(path) as source:
        os.truncate(path, 4096)
        with pytest.raises(CorruptCheckpointError, match="shorter") as caught:
            source.fill([(target, source.content["model"]["weight"])])
    assert caught.value.path == str(path)
