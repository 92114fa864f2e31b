"""Batches in an order that depends on seed and epoch alone, so that an interrupted epoch can go on."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from linnaeus.errors import ConfigError, ResumeMismatchError


class SizedDataset(Protocol):
    """A dataset with a length, as `torch.utils.data` has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class ResumableLoader:
    """Iterate over a dataset in batches, once per epoch; stop anywhere and go on exactly there.

    The order of epoch e is a permutation drawn from (seed, e), independent of every global random
    stream. `state_dict()` tells the position, `load_state_dict()` sets it; the next iteration then
    yields the rest of that epoch. An iteration that is left early is continued by the next one.

    Args:
        dataset: Anything with a length and items by index.
        batch_size: Samples per batch.
        seed: Decides the order of all epochs, and the random draws inside worker processes.
        shuffle: Whether to permute at all.
        drop_last: Whether to leave out a last batch that is not full.
        num_workers: Processes that load ahead; 0 loads in this one. In a worker the random streams are
            seeded for each sample, so that what a sample draws does not depend on who loads it.
        collate_fn: How samples become a batch; torch's default when None.
        rank: Of several processes that share each batch, the number of this one.
        world_size: How many there are. `batch_size` counts the samples of all together, so that the order
            and what a step learns from do not depend on it; each gets every `world_size`-th sample.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(
                field="TRAIN.BATCH_SIZE",
                expected=f"should be a multiple of the {world_size} ranks that share each batch",
                value=batch_size,
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._num_workers = num_workers
        self._collate_fn = collate_fn
        self.rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._num_taken = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and not self._drop_last else 0)

    def __iter__(self) -> Iterator[Any]:
        order = self._order()
        batches = DataLoader(
            _SeededPerSample(self.dataset, self._seed, self._epoch),
            batch_size=self.batch_size // self._world_size,
            sampler=self._own(order[self._num_taken :]),
            drop_last=self._drop_last,
            num_workers=self._num_workers,
            collate_fn=self._collate_fn,
            generator=torch.Generator(),  # else the loader would draw from the global stream
        )
        for batch in batches:
            # Counted before it is handed out: whoever has the batch will have trained on it when saving.
            self._num_taken = min(self._num_taken + self.batch_size, len(order))
            yield batch
        self._epoch += 1
        self._num_taken = 0

    def _own(self, order: list[int]) -> list[int]:
        """Return this rank's samples; a last batch that does not divide is filled up with its last."""
        if self._drop_last:
            order = order[: len(order) // self.batch_size * self.batch_size]
        elif len(order) % self._world_size:
            padded = order + order[-1:] * self._world_size
            order = padded[: len(padded) // self._world_size * self._world_size]
        return order[self.rank :: self._world_size]

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        return torch.randperm(len(self.dataset), generator=generator).tolist()

    def state_dict(self) -> dict[str, int]:
        """Return the position, and what it depends on."""
        return {
            "epoch": self._epoch,
            "num_taken": self._num_taken,
            "seed": self._seed,
            "num_samples": len(self.dataset),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Set the position.

        Raises:
            ResumeMismatchError: It belongs to another dataset size, since the order would be another.
        """
        if state["num_samples"] != len(self.dataset):
            raise ResumeMismatchError(
                path="the data position",
                problem=f"it was saved for {state['num_samples']} samples,"
                f" the dataset has {len(self.dataset)}",
            )
        self._epoch, self._num_taken, self._seed = state["epoch"], state["num_taken"], state["seed"]


class _SeededPerSample(Dataset[Any]):
    def __init__(self, dataset: SizedDataset, seed: int, epoch: int) -> None:
        self._dataset = dataset
        self._base = _mix(seed, epoch)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        if get_worker_info() is not None:
            seed = _mix(self._base, index)
            torch.manual_seed(seed)
            random.seed(seed)
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                numpy.random.seed(seed % 2**32)
        return self._dataset[index]


def _mix(a: int, b: int) -> int:
    """Return a number that depends on both and differs for neighbours (a 63-bit multiply and shift)."""
    mixed = (a * 0x9E3779B97F4A7C15 + b * 0xD1B54A32D192ED03 + 0x8BB84B93962EACC9) % 2**64
    return (mixed ^ (mixed >> 31)) % 2**63
