"""Batches go on exactly where they were left."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from linnaeus import ResumableLoader
from linnaeus.errors import ResumeMismatchError
from linnaeus.state import capture_rng, restore_rng
from support.small_run import NoisySamples


class Indices:
    """A dataset whose items are their own indices."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> int:
        return index


def seed() -> None:
    """Set all streams."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)


def numbers(batches: Iterator[Any] | ResumableLoader) -> list[Any]:
    """Return batches as nested lists."""
    return [
        [part.tolist() for part in batch] if isinstance(batch, list) else batch.tolist() for batch in batches
    ]


def flat(batches: list[Any]) -> list[Any]:
    """Return the samples of all batches."""
    return [sample for batch in batches for sample in batch]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 5, 7])
def test_the_rest_of_the_batches_is_the_same_after_a_stop(num_workers: int, stop: int) -> None:
    """Stopped anywhere in two epochs, a new loader yields the rest, with its random augmentation."""
    seed()
    loader = ResumableLoader(NoisySamples(18), batch_size=4, seed=9, num_workers=num_workers)
    whole = numbers(loader) + numbers(loader)
    assert len(whole) == 10
    seed()
    loader = ResumableLoader(NoisySamples(18), batch_size=4, seed=9, num_workers=num_workers)
    taken: list[Any] = []
    while len(taken) < stop:
        for batch in loader:
            taken += numbers(iter([batch]))
            if len(taken) == stop:
                break
    position, streams = loader.state_dict(), capture_rng()
    torch.rand(5), random.random(), np.random.rand()
    again = ResumableLoader(NoisySamples(18), batch_size=4, seed=9, num_workers=num_workers)
    again.load_state_dict(position)
    restore_rng(streams, "x")
    rest: list[Any] = []
    while len(rest) < 10 - stop:
        rest += numbers(again)
    assert taken + rest == whole


def test_each_epoch_has_its_own_order_and_every_sample_once() -> None:
    """Epochs are permutations of all samples, and differ; seeds differ too."""
    loader = ResumableLoader(Indices(50), batch_size=7, seed=1)
    epochs = [flat(numbers(loader)) for _ in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = flat(numbers(ResumableLoader(Indices(50), batch_size=7, seed=2)))
    assert other not in epochs


def test_the_order_depends_on_no_global_stream_and_draws_from_none() -> None:
    """Whatever else draws random numbers, the order stays, and iterating draws none itself."""
    orders = []
    for start in (1, 2):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        orders.append(numbers(ResumableLoader(Indices(20), batch_size=4, seed=1)))
        assert torch.equal(before, torch.get_rng_state())
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("num_samples", "drop_last", "num_batches"),
    [(20, False, 5), (18, False, 5), (18, True, 4), (3, True, 0), (0, False, 0)],
)
def test_its_length_is_the_number_of_batches(num_samples: int, drop_last: bool, num_batches: int) -> None:
    """len() is what an epoch yields, for every remainder."""
    loader = ResumableLoader(Indices(num_samples), batch_size=4, seed=1, drop_last=drop_last)
    assert len(loader) == num_batches == len(numbers(loader)) == len(numbers(loader))


def test_without_shuffling_the_order_is_that_of_the_dataset() -> None:
    """shuffle=False keeps the order, and a stop keeps the place."""
    loader = ResumableLoader(Indices(10), batch_size=3, seed=1, shuffle=False)
    assert next(iter(loader)).tolist() == [0, 1, 2]
    assert numbers(loader) == [[3, 4, 5], [6, 7, 8], [9]]


def test_samples_of_workers_do_not_depend_on_how_many_there_are() -> None:
    """What a sample draws in a worker depends on seed, epoch and sample only."""
    one, two = (
        numbers(ResumableLoader(NoisySamples(12), batch_size=4, seed=9, num_workers=num)) for num in (1, 2)
    )
    assert one == two


def test_a_worker_draws_differently_in_each_epoch_and_for_each_sample() -> None:
    """Augmentation is not the same noise over and over."""
    loader = ResumableLoader(NoisySamples(8), batch_size=8, seed=9, num_workers=1, shuffle=False)
    first, second = numbers(loader)[0][0], numbers(loader)[0][0]
    clean = [NoisySamples(8)._inputs[index].tolist() for index in range(8)]
    noise = [
        [a - b for a, b in zip(x, y, strict=True)] for x, y in zip(first + second, clean + clean, strict=True)
    ]
    assert len({round(sum(row), 4) for row in noise}) == 16


def test_a_position_of_another_dataset_is_refused() -> None:
    """Another number of samples means another order, so the position is worth nothing."""
    loader = ResumableLoader(Indices(10), batch_size=3, seed=1)
    state = loader.state_dict()
    with pytest.raises(ResumeMismatchError, match="10 samples, the dataset has 11"):
        ResumableLoader(Indices(11), batch_size=3, seed=1).load_state_dict(state)


def test_a_custom_collation_is_used() -> None:
    """collate_fn makes the batches."""
    loader = ResumableLoader(Indices(4), batch_size=2, seed=1, shuffle=False, collate_fn=tuple)
    assert list(loader) == [(0, 1), (2, 3)]
