"""A run is filled from a file or a directory: into the tensors it has, and needs nothing of that."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.errors import CorruptCheckpointError, ResumeMismatchError
from linnaeus.pth import mapped_file, save_sharded
from linnaeus.state import RunParts, restore
from support.small_run import SmallRun
from support.trees import same

Saved = Callable[[Any], Path]


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


@pytest.fixture(params=["a.pth", "a.sharded"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Saved:
    """Return what saves a state in either form, and tells where."""
    path: Path = tmp_path / request.param

    def save(state: Any) -> Path:
        (linnaeus.save if path.suffix == ".pth" else save_sharded)(state, path)
        return path

    return save


@pytest.mark.parametrize("write", [linnaeus.save, torch.save, save_sharded])
def test_a_run_gets_every_part_bit_for_bit(tmp_path: Path, write: Any) -> None:
    """From our files and directories, read straight into memory, and from files that torch wrote."""
    run, path = trained(3), tmp_path / ("a.sharded" if write is save_sharded else "a.pth")
    write(RunParts(**run.parts()).capture(), path)
    expected = copy.deepcopy(run.state())
    other = trained(1, seed=8)
    restored(RunParts(**other.parts()), path)
    assert same(other.state(), expected)


def test_tensors_that_are_there_are_kept_and_filled(saved: Saved) -> None:
    """No second copy is made: each tensor is the one it was, with the saved content and a new version."""
    run = trained(3)
    path = saved(RunParts(**run.parts()).capture())
    other = trained(2, seed=8)
    before = {id(t): (t.data_ptr(), t._version) for t in large_tensors(other)}
    restored(RunParts(**other.parts()), path)
    after = {id(t): (t.data_ptr(), t._version) for t in large_tensors(other)}
    assert {number: pointer for number, (pointer, _) in after.items()} == {
        number: pointer for number, (pointer, _) in before.items()
    }
    assert all(after[number][1] > before[number][1] for number in before)


def test_nothing_of_the_run_stays_in_the_file(saved: Saved) -> None:
    """Also the state of an optimizer that had none is memory of its own."""
    path = saved(RunParts(**trained(3).parts()).capture())
    other = SmallRun(seed=8)
    assert not other.optimizer.state
    with mapped_file(path) as source:
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


def test_a_layers_own_loading_sees_the_saved_state(saved: Saved) -> None:
    """What it does with it happens once."""
    path = saved({"model": nn.Linear(3, 2).state_dict(), "rng": {}})
    model = Doubling(3, 2)
    with mapped_file(path) as source:
        restore(RunParts(model=model), {"model": source.content["model"]}, "a", complete=False, source=source)
    assert torch.equal(model.weight, linnaeus.load(path)["model"]["weight"] * 2)


class Doubled(torch.optim.SGD):
    """An optimizer that changes what it loads."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Double every buffer."""
        for one in state_dict["state"].values():
            one["momentum_buffer"] = one["momentum_buffer"] * 2
        super().load_state_dict(state_dict)


@pytest.mark.parametrize("how", ["class", "hook before", "hook after", "nobody's"])
def test_an_optimizers_own_loading_sees_the_saved_state(saved: Saved, how: str) -> None:
    """Whoever looks at it finds the saved numbers, not memory that waits for them."""

    def made(kind: type[torch.optim.SGD]) -> torch.optim.SGD:
        return kind([nn.Parameter(torch.ones(5))], lr=0.1, momentum=0.9)

    before = made(torch.optim.SGD)
    before.param_groups[0]["params"][0].grad = torch.arange(5.0)
    before.step()
    path, after = (
        saved({"optimizer": before.state_dict()}),
        made(Doubled if how == "class" else torch.optim.SGD),
    )
    seen: list[torch.Tensor] = []
    if how == "hook before":
        after.register_load_state_dict_pre_hook(
            lambda _, state: seen.append(state["state"][0]["momentum_buffer"].clone())
        )
    if how == "hook after":
        after.register_load_state_dict_post_hook(
            lambda one: seen.extend(state["momentum_buffer"].clone() for state in one.state.values())
        )
    with mapped_file(path) as source:
        restore(
            RunParts(model=nn.Module(), optimizer=after),
            source.content | {"model": {}},
            "a",
            complete=False,
            source=source,
        )
    found = next(iter(after.state.values()))["momentum_buffer"]
    assert found.tolist() == [number * (2 if how == "class" else 1) for number in range(5)]
    assert all(one.tolist() == [*range(5)] for one in seen)


def test_a_layer_that_refuses_is_left_as_it_was(saved: Saved) -> None:
    """What its own code has taken before it refused is set back."""
    path = saved({"model": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict()})
    model = nn.Sequential(Refusing(3, 2), nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    with mapped_file(path) as source, pytest.raises(ResumeMismatchError, match="not today"):
        restore(RunParts(model=model), source.content, "a", complete=False, source=source)
    assert same(dict(model.state_dict()), dict(before))


def test_tied_weights_take_what_loading_would_give_them(saved: Saved) -> None:
    """Two names of one tensor, of which the file has two contents: the later one counts, as in torch."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    state = {"0.weight": torch.ones(2, 2), "1.weight": torch.full((2, 2), 2.0)}
    model[1].weight = model[0].weight
    path = saved({"model": state})
    with mapped_file(path) as source:
        restore(RunParts(model=model), source.content, "a", complete=False, source=source)
    assert model[0].weight is model[1].weight
    assert torch.equal(model[0].weight, state["1.weight"])


@pytest.mark.parametrize("target", ["transposed", "other type", "channels last", "part of a larger one"])
def test_memory_that_lies_otherwise_is_copied_to(saved: Saved, target: str) -> None:
    """Strides, types and offsets need not be those of the file."""
    weight = torch.rand(4, 3, 2, 2)
    path = saved({"model": {"weight": weight}})
    model = nn.Module()
    model.weight = {
        "transposed": lambda: nn.Parameter(torch.zeros(3, 4, 2, 2).transpose(0, 1)),
        "other type": lambda: nn.Parameter(torch.zeros(4, 3, 2, 2, dtype=torch.float64)),
        "channels last": lambda: nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "part of a larger one": lambda: nn.Parameter(torch.zeros(6, 3, 2, 2)[2:]),
    }[target]()
    strides = model.weight.stride()
    with mapped_file(path) as source:
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
