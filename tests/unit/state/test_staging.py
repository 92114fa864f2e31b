"""Tensors on their way from a device: bit for bit those of the snapshot, whoever comes first.

A thread plays the device's copying stream on tensors of the CPU, so that the order of events is tested
everywhere; with a GPU the same is asked of the whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.errors import TornSaveError
from linnaeus.state._staging import Lent, Staged, Staging
from support.lanes import ThreadLane, plain_memory, staging
from support.small_run import config
from support.trees import same


@pytest.fixture
def lane() -> Iterator[ThreadLane]:
    """A lane that waits until it is told to copy."""
    one = ThreadLane()
    yield one
    one.stop()


def lent() -> tuple[list[Lent], dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors, views of one storage among them, and the content that they are for."""
    base = torch.arange(12.0)
    tensors = {"a": torch.randn(3, 5), "b": base[2:6], "c": base.view(3, 4).t(), "none": torch.empty(0)}
    content: dict[str, Any] = dict.fromkeys(tensors)
    return [(dict(tensors), content)], tensors, content


def test_what_arrives_is_what_was_there_and_is_laid_out_alike(lane: ThreadLane) -> None:
    """Values, strides and shared storages."""
    loan, tensors, content = lent()
    staged = Staged(staging(lane), loan)
    lane.may_copy.set()
    staged.arrive()
    assert same(content, tensors)
    assert content["c"].stride() == tensors["c"].stride()
    assert content["b"].untyped_storage().data_ptr() == content["c"].untyped_storage().data_ptr()
    assert content["a"].untyped_storage().nbytes() == tensors["a"].nbytes
    assert not content["a"].is_set_to(tensors["a"])


def test_a_step_that_comes_first_lets_the_copies_pass(lane: ThreadLane) -> None:
    """The writer has not begun; the step enqueues the copies, and its own changes come after them."""
    loan, tensors, content = lent()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    staged = Staged(staging(lane), loan)
    threading.Timer(0.05, lane.may_copy.set).start()
    staged.release()
    for tensor in tensors.values():
        tensor.zero_()
    staged.arrive()
    assert same(content, before)
    staged.release()  # again is fine


@pytest.mark.parametrize("when", ["before copying", "while copying"])
@pytest.mark.parametrize("way", ["in place", "other memory"])
def test_an_unannounced_change_of_a_device_s_tensor_is_noticed(lane: ThreadLane, when: str, way: str) -> None:
    """Whether or not the copies had been enqueued; memory that is let go stays until it was copied."""
    loan, tensors, content = lent()
    before = tensors["a"].clone()
    staged = Staged(staging(lane), loan)
    if when == "while copying":
        staged.begin()
    if way == "in place":
        tensors["a"].add_(1)
    else:
        tensors["a"].data = torch.zeros(3, 5)
    lane.may_copy.set()
    if (when, way) == ("while copying", "other memory"):
        staged.arrive()
        assert torch.equal(content["a"], before)
    else:
        with pytest.raises(TornSaveError, match="before_mutation"):
            staged.arrive()


def test_memory_is_used_again_for_the_next_snapshot(lane: ThreadLane) -> None:
    """A run takes page-locked memory once."""
    lane.may_copy.set()
    taken: list[int] = []

    def counted(size_bytes: int) -> torch.Tensor:
        taken.append(size_bytes)
        return plain_memory(size_bytes)

    kept = Staging(lambda _: lane, counted)
    for _ in range(3):
        loan, *_ = lent()
        Staged(kept, loan).arrive()
    assert len(taken) == 1


def test_clones_arrive_in_the_memory_that_they_are_for(lane: ThreadLane) -> None:
    """What may change before the next step was cloned; its bytes come the same way."""
    target, source = torch.zeros(8, dtype=torch.uint8), torch.arange(8, dtype=torch.uint8)
    lane.may_copy.set()
    Staged(staging(lane), [], [(target, source)]).arrive()
    assert torch.equal(target, source)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_run_on_a_gpu_is_saved_as_it_was(tmp_path: Path) -> None:
    """Statistics, parameters and optimizer state of the instant of the save, though training goes on."""
    model = nn.Sequential(nn.Linear(2000, 2000), nn.BatchNorm1d(2000)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    cfg = config(tmp_path, EPOCHS=10**6, KEEP_LAST_N=0)
    ckpt = linnaeus.CheckpointManager(cfg, model=model, optimizer=optimizer)
    expected: dict[Path, Any] = {}
    for number in range(1, 20):
        optimizer.zero_grad()
        model(torch.randn(64, 2000, device="cuda")).square().mean().backward()
        optimizer.step()
        ckpt.progress = ckpt.progress.after_step()
        state = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        ckpt._begin_saving()
        if number % 2:
            optimizer.step()
        assert ckpt.newest is not None
        expected[ckpt.newest] = state
    ckpt.close()
    for path, state in expected.items():
        assert same(dict(linnaeus.load(path)["model"]), state)
