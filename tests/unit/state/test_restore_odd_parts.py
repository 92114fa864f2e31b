"""Parts as people write them: sparse buffers, extra state, aliases, lazy modules, refusals of any kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.errors import CheckpointInvalidError, ResumeMismatchError
from linnaeus.pth import mapped_file
from linnaeus.state import RunParts, restore
from support.trees import same


def restored(parts: RunParts, path: Path) -> None:
    """Fill a run from a file, as a manager does."""
    with mapped_file(path) as source:
        restore(parts, source.content, str(path), complete=True, source=source)


def saved(tmp_path: Path, **parts: Any) -> Path:
    """Return a file that holds a run."""
    linnaeus.save(RunParts(**parts).capture(), tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_model_with_a_sparse_buffer_is_filled(tmp_path: Path) -> None:
    """A graph's adjacency has no storage of its own; it is copied, the rest is read in place."""

    def model(scale: float) -> nn.Module:
        made = nn.Linear(3, 3)
        made.register_buffer("adjacency", (torch.eye(3) * scale).to_sparse())
        return made

    path = saved(tmp_path, model=model(2))
    other = model(1)
    restored(RunParts(model=other), path)
    assert torch.equal(other.adjacency.to_dense(), torch.eye(3) * 2)


class Calibrated(nn.Linear):
    """A layer whose extra state is a tensor of any length, or is refused."""

    def __init__(self, state: torch.Tensor) -> None:
        super().__init__(2, 2)
        self.state = state

    def get_extra_state(self) -> torch.Tensor:
        """Return it."""
        return self.state

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take it, or refuse."""
        if not len(state):
            raise ValueError("nothing in it")
        self.state = state.clone()


def test_extra_state_may_have_another_length(tmp_path: Path) -> None:
    """What a module serializes itself is its own affair, as for torch; only its presence is compared."""
    path = saved(tmp_path, model=Calibrated(torch.arange(5)))
    other = Calibrated(torch.arange(1))
    restored(RunParts(model=other), path)
    assert other.state.tolist() == [0, 1, 2, 3, 4]


def test_a_module_that_refuses_its_extra_state_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """All or nothing, also where the refusal comes after the other layers were filled."""
    path = saved(tmp_path, model=nn.Sequential(nn.Linear(2, 2), Calibrated(torch.arange(0))))
    other = nn.Sequential(nn.Linear(2, 2), Calibrated(torch.arange(3)))
    before = other[0].weight.detach().clone()
    with pytest.raises(ResumeMismatchError, match="nothing in it"):
        restored(RunParts(model=other), path)
    assert torch.equal(other[0].weight, before)


def test_a_lazy_module_takes_the_saved_shape(tmp_path: Path) -> None:
    """It has no shape to compare before its first input."""
    path = saved(tmp_path, model=nn.Sequential(nn.Linear(4, 3)))
    other = nn.Sequential(nn.LazyLinear(3))
    restored(RunParts(model=other), path)
    assert other[0].weight.shape == (3, 4)


@pytest.mark.parametrize(
    ("saved_as", "here", "fits"),
    [
        (torch.float32, torch.bfloat16, False),
        (torch.float32, torch.float64, True),
        (torch.float16, torch.bfloat16, False),
        (torch.float8_e4m3fn, torch.float32, True),
        (torch.float32, torch.float8_e4m3fn, False),
    ],
)
def test_a_narrower_type_is_a_mismatch(
    tmp_path: Path, saved_as: torch.dtype, here: torch.dtype, *, fits: bool
) -> None:
    """Weights cut to fewer bits would go on as another run without a word."""
    path = saved(tmp_path, model=nn.Linear(2, 2).to(saved_as))
    other = RunParts(model=nn.Linear(2, 2).to(here))
    if fits:
        restored(other, path)
    else:
        with pytest.raises(ResumeMismatchError, match=r"weight: torch\.\w+ in the checkpoint"):
            restored(other, path)


class Part:
    """A part that keeps what it is given; some refuse in a way of their own."""

    def __init__(self, value: Any, error: BaseException | None = None) -> None:
        self.value, self.error = value, error

    def state_dict(self) -> dict[str, Any]:
        """Return what it has."""
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        """Take it, or not."""
        if self.error is not None:
            raise self.error
        self.value = state["value"]


@pytest.mark.parametrize(
    ("raised", "met"),
    [
        (AssertionError("no"), ResumeMismatchError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError("away"), OSError),
    ],
)
def test_nothing_changes_however_a_part_refuses(
    tmp_path: Path, raised: BaseException, met: type[BaseException]
) -> None:
    """Asserting, being interrupted or failing otherwise: the parts before it are set back."""
    path = saved(tmp_path, model=nn.Linear(1, 1), lr_scheduler=Part(1), scaler=Part(2))
    schedule = Part(7)
    with pytest.raises(met):
        restored(
            RunParts(model=nn.Linear(1, 1), lr_scheduler=schedule, scaler=Part(2, raised)),
            path,
        )
    assert schedule.value == 7


def test_a_file_cut_short_meanwhile_is_no_mismatch(tmp_path: Path) -> None:
    """The run fits; it is the file that can't be read."""
    path = saved(tmp_path, model=nn.Linear(64, 64))
    other = nn.Linear(64, 64)
    with mapped_file(path) as source:
        content = source.content
        os.truncate(path, 100)
        with pytest.raises(CheckpointInvalidError):
            restore(
                RunParts(model=other),
                content,
                str(path),
                complete=True,
                skip=frozenset({"rng"}),
                source=source,
            )


def test_a_state_that_doubles_or_holds_itself_is_copied_once(tmp_path: Path) -> None:
    """Sixty lists, each of the one before twice, come from anybody's file and must not take ages."""
    doubling: list[Any] = [torch.ones(1)]
    for _ in range(60):
        doubling = [doubling, doubling]
    doubling.append(doubling)
    part = Part(None)
    path = saved(tmp_path, model=nn.Linear(1, 1), scaler=Part(doubling))
    restored(RunParts(model=nn.Linear(1, 1), scaler=part), path)
    assert part.value[0] is part.value[1]
    assert part.value[2] is part.value


def test_a_tensor_in_several_places_of_a_state_is_still_one(tmp_path: Path) -> None:
    """In parts of any kind, and in the state of an optimizer that shares a counter."""
    shared = torch.zeros(3)
    path = saved(
        tmp_path, model=nn.Linear(2, 2), optimizer=Sharing(nn.Linear(2, 2)), scaler=Part([shared, shared])
    )
    model, part = nn.Linear(2, 2), Part(None)
    optimizer = torch.optim.SGD(model.parameters())
    restored(RunParts(model=model, optimizer=optimizer, scaler=part), path)
    weight, bias = optimizer.state.values()
    assert weight["step"] is bias["step"]
    assert part.value[0] is part.value[1]


class Sharing(torch.optim.SGD):
    """An optimizer with one counter for all its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters())
        step = torch.tensor(5)
        for parameter in model.parameters():
            self.state[parameter] = {"step": step, "slow": torch.randn_like(parameter)}


def test_aliases_of_a_fresh_optimizer_are_not_written_through(tmp_path: Path) -> None:
    """State that begins as the parameter itself, or as one tensor for all, gets memory of its own."""
    model = nn.Linear(3, 3, bias=False)
    optimizer = torch.optim.SGD([nn.Parameter(model.weight.detach()), nn.Parameter(torch.ones(3, 3))])
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        optimizer.state[parameter] = {
            "slow": torch.full((3, 3), float(number)),
            "other": torch.ones(3, 3) * 4,
        }
    expected = optimizer.state_dict()
    path = saved(tmp_path, model=model, optimizer=optimizer)
    other = nn.Linear(3, 3, bias=False)
    fresh = torch.optim.SGD([other.weight, nn.Parameter(torch.ones(3, 3))])
    alias = torch.zeros(3, 3)
    for parameter in fresh.param_groups[0]["params"]:
        fresh.state[parameter] = {"slow": parameter, "other": alias}
    fresh.state[other.weight]["slow"] = alias
    restored(RunParts(model=other, optimizer=fresh), path)
    assert same(fresh.state_dict()["state"], expected["state"])
    assert torch.equal(other.weight, model.weight)
