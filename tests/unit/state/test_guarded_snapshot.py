"""What a snapshot copies, what it guards, and how the guarded is taken back."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from linnaeus.errors import TornSaveError
from linnaeus.pth import memory_of
from linnaeus.state import RunParts, Snapshot, SpareMemory, take_snapshot
from support.trees import same


def trained() -> RunParts:
    """Return a model with a trained, a frozen and an untrained part, after one step."""
    model = nn.ModuleDict({"a": nn.Linear(300, 300), "b": nn.BatchNorm1d(4), "c": nn.Linear(600, 600)})
    model["c"].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(model["a"].parameters())
    model["a"](torch.randn(2, 300)).sum().backward()
    optimizer.step()
    return RunParts(model=model, optimizer=optimizer)


class Odd:
    """A part whose state is whatever it was given."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def state_dict(self) -> dict[str, Any]:
        return self.content

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.content = state


def snapshot(parts: RunParts, **others: Any) -> Snapshot:
    """Return a snapshot of the parts as they are."""
    return take_snapshot(parts, others, SpareMemory())


def shares(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have the same memory."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def test_only_what_an_optimizers_step_changes_is_guarded() -> None:
    """Trained parameters, optimizer state and frozen ones lie where they are; all else is a copy."""
    parts = trained()
    model, optimizer = parts.model, parts.optimizer
    taken = snapshot(parts).content
    assert shares(taken["model"]["a.weight"], model["a"].weight)
    assert shares(taken["model"]["c.bias"], model["c"].bias)
    assert not shares(taken["model"]["c.weight"], model["c"].weight)  # trained by someone whom we don't see
    assert not shares(taken["model"]["b.running_mean"], model["b"].running_mean)
    assert shares(taken["optimizer"]["state"][0]["exp_avg"], optimizer.state[model["a"].weight]["exp_avg"])


def test_a_copy_shares_nothing_and_is_the_same() -> None:
    """Containers of all kinds, views of one storage, unusual tensors and objects that stand there twice."""
    base = torch.arange(12.0)
    twice = [1, 2]
    content = {
        "views": [base[2:6], base.view(3, 4).t()],
        "same": (twice, twice),
        "ordered": OrderedDict(a=1),
        "counter": Counter("aab"),
        "set": {1, 2},
        "sparse": torch.eye(3).to_sparse(),
        "conj": torch.tensor([1 + 2j]).conj(),
        "parameter": nn.Parameter(torch.ones(2)),
        "gradient": torch.ones(2, requires_grad=True),
    }
    parts = RunParts(model=nn.Linear(1, 1), ema=Odd(content))
    taken = take_snapshot(parts, {}, SpareMemory(), copy=True).content["ema"]
    base.zero_()
    twice.append(3)
    content["ordered"]["b"] = 2
    assert taken["views"][0].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert shares(taken["views"][0], taken["views"][1])
    assert taken["views"][1].stride() == (1, 4)
    assert taken["same"][0] is taken["same"][1]
    assert taken["same"][0] == [1, 2]
    assert taken["ordered"] == OrderedDict(a=1)
    assert (taken["counter"], taken["set"]) == (Counter("aab"), {1, 2})
    assert torch.equal(taken["sparse"].to_dense(), torch.eye(3))
    assert taken["conj"].tolist() == [1 - 2j]
    assert type(taken["parameter"]) is nn.Parameter
    assert taken["gradient"].requires_grad


def read_all(taken: Snapshot) -> dict[str, bytes]:
    """Read the model's tensors as the writer does."""
    assert taken.guard is not None
    pieces = taken.guard.pieces
    return {
        name: b"".join(map(bytes, pieces(t.untyped_storage()))) for name, t in taken.content["model"].items()
    }


def test_what_was_not_read_when_training_comes_back_is_copied_first() -> None:
    """After `release` everything may be changed, and the writer still reads the old bytes."""
    parts = trained()
    before = {k: bytes(memory_of(v.untyped_storage())) for k, v in parts.model.state_dict().items()}
    taken = snapshot(parts)
    assert taken.guard is not None
    taken.guard.presum()
    taken.guard.release()
    with torch.no_grad():
        for tensor in parts.model.state_dict().values():
            tensor.zero_()
    assert read_all(taken) == before


def test_what_was_read_is_not_copied() -> None:
    """Memory for copies is only taken for what is left."""
    parts, spare = trained(), SpareMemory()
    taken = take_snapshot(parts, {}, spare)
    assert taken.guard is not None
    read_all(taken)
    taken.guard.release()
    state_bytes = sum(v.nbytes for s in parts.optimizer.state.values() for v in s.values())
    assert 0 < spare.size_bytes <= state_bytes + 64 * 6
    taken.guard.release()  # again is fine


def test_a_change_without_announcement_is_noticed() -> None:
    """By its version at the next piece, or past that by its sum."""
    for hidden in (False, True):
        parts = trained()
        taken = snapshot(parts)
        assert taken.guard is not None
        taken.guard.presum()
        weight = parts.model["a"].weight
        with torch.no_grad():
            (weight.data if hidden else weight).add_(1)
        if hidden:
            read = read_all(taken)
            wrong = {weight.untyped_storage()._cdata: hash(read["a.weight"])}
            with pytest.raises(TornSaveError):
                taken.guard.require_same(wrong)
        else:
            with pytest.raises(TornSaveError):
                read_all(taken)


@pytest.mark.parametrize("way", ["in place", "other memory", "by announcement"])
def test_a_change_before_the_writer_begins_is_noticed(way: str) -> None:
    """Tensors stay the run's own objects for a moment; whatever happens to them then is found too."""
    parts = trained()
    average = parts.optimizer.state[parts.model["a"].weight]["exp_avg"]
    before = average.clone()
    taken = snapshot(parts)
    assert taken.guard is not None
    if way == "in place":
        average.add_(1)
    elif way == "other memory":
        average.data = average + 1
    else:
        taken.guard.release()
        average.add_(1)
    held = taken.content["optimizer"]["state"][0]["exp_avg"]
    assert held is not average
    if way == "by announcement":
        read = b"".join(map(bytes, taken.guard.pieces(held.untyped_storage())))
        assert read == bytes(memory_of(before.untyped_storage()))
    else:
        with pytest.raises(TornSaveError):
            list(taken.guard.pieces(held.untyped_storage()))


def test_state_of_an_optimizer_that_is_no_tensor_is_copied() -> None:
    """An entry may hold numbers, lists and tensors with gradients; only plain tensors are guarded."""
    parts = trained()
    entry = parts.optimizer.state[parts.model["a"].bias]
    entry |= {"old": [1, 2], "asks": torch.ones(2, requires_grad=True), "none": None}
    taken = snapshot(parts)
    entry["old"].append(3)
    found = taken.content["optimizer"]["state"][1]
    assert found["old"] == [1, 2]
    assert (found["none"], found["asks"].requires_grad) == (None, True)
    assert not shares(found["asks"], entry["asks"])
    assert shares(found["exp_avg"], entry["exp_avg"])
    assert list(found) == list(entry)


def test_a_few_frozen_numbers_are_copied_and_many_are_not() -> None:
    """Frozen parameters are worth looking for only when they are more than a copy costs."""
    few, many = trained(), trained()
    few.model["c"] = nn.Linear(3, 3).requires_grad_(False)
    many.model["c"].requires_grad_(False)
    for parts, expected in ((few, False), (many, True)):
        taken = snapshot(parts).content["model"]
        assert shares(taken["c.weight"], parts.model["c"].weight) is expected


def test_without_memory_for_a_copy_training_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no buffer can be had, the step is held until the writer is done."""
    parts = trained()
    before = {k: bytes(memory_of(v.untyped_storage())) for k, v in parts.model.state_dict().items()}
    taken = snapshot(parts)
    guard = taken.guard
    assert guard is not None

    def no_memory(*_: Any) -> Any:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(SpareMemory, "copies", no_memory)
    read: dict[str, bytes] = {}

    def write() -> None:
        read.update(read_all(taken))
        guard.finish()

    writer = threading.Thread(target=write)
    writer.start()
    guard.release()
    with torch.no_grad():
        parts.model["a"].weight.zero_()
    writer.join()
    assert read == before


def test_an_optimizer_that_cannot_be_seen_has_its_state_copied() -> None:
    """What only looks like an optimizer announces no steps, so nothing of it is left where it is."""

    class Wrapped:
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner = inner

        def state_dict(self) -> Any:
            return self.inner.state_dict()

        def load_state_dict(self, state: Any) -> None:
            self.inner.load_state_dict(state)

    parts = trained()
    unseen = RunParts(model=parts.model, optimizer=Wrapped(parts.optimizer))
    taken = snapshot(unseen).content
    assert not shares(taken["model"]["a.weight"], parts.model["a"].weight)
    exp_avg = parts.optimizer.state[parts.model["a"].weight]["exp_avg"]
    assert not shares(taken["optimizer"]["state"][0]["exp_avg"], exp_avg)
    assert same(taken["optimizer"]["state"][0]["exp_avg"], exp_avg)
