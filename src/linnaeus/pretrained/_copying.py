"""Copy planned weights into a model's own memory, on several cores.

Of a tensor that is spread over ranks each fills its part, and reads no other where the file has it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linnaeus.pretrained._plan import Copy
from linnaeus.pretrained._weights import Weight

_MAX_THREADS = 8

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: for each dimension where it begins, and its length."""


def copy_all(copies: Collection[Copy]) -> int:
    """Fill the model's tensors and return the bytes that they take here."""
    ordered = sorted(copies, key=_place)  # so that a disk reads ahead of what is copied
    num_threads = max(1, min(_MAX_THREADS, os.cpu_count() or 1, len(copies)))
    left = iter(ordered)  # shared: taking the next of a list is one step
    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(_fill_all, [left] * num_threads))


def _place(copy: Copy) -> tuple[str, int]:
    stored = copy.weight.stored
    return ("", 0) if stored is None else stored.place


def _fill_all(copies: Iterable[Copy]) -> int:
    return sum(_fill(copy) for copy in copies)


def _fill(copy: Copy) -> int:
    weight, here = copy.weight, _here(copy.target.tensor)
    with torch.no_grad():  # counts for the thread that it is in
        if weight.rows is not None:
            _fill_rows(here, weight, weight.rows)
        elif here.tensor.numel():
            _fill_part(here, weight)
    return here.tensor.nbytes


@dataclass(frozen=True, slots=True)
class _Here:
    """What of a tensor is on this rank; `box` is None where that is all of it."""

    tensor: Tensor
    box: Box | None = None

    def part(self, whole: Tensor) -> Tensor:
        """Return the part of a whole tensor that belongs here."""
        if self.box is None:
            return whole
        return whole[tuple(slice(start, start + length) for start, length in self.box)]


def _here(tensor: Tensor) -> _Here:
    if type(tensor) in (Tensor, nn.Parameter):  # most: then DTensor's import need not be paid for
        return _Here(tensor)
    from torch.distributed.tensor import DTensor

    from linnaeus.state import own_box

    return _Here(*own_box(tensor)) if isinstance(tensor, DTensor) else _Here(tensor)


def _fill_part(here: _Here, weight: Weight) -> None:
    stored = weight.stored
    if stored is None:
        here.tensor.copy_(here.part(weight.read()))
        return
    own = stored if here.box is None else stored.part(here.box)
    if not own.read_into(here.tensor):
        here.tensor.copy_(own.read())


def _fill_rows(here: _Here, weight: Weight, rows: tuple[int, ...]) -> None:
    """Fill some rows, given for the whole tensor, of those that are here."""
    first, count = here.box[0] if here.box else (0, here.tensor.shape[0])
    mine = [(row - first, number) for number, row in enumerate(rows) if first <= row < first + count]
    if not mine:
        return
    to, of = (list(side) for side in zip(*mine, strict=True))
    value = weight.read()[of]
    if here.box is not None:
        value = _Here(value, ((0, len(of)), *here.box[1:])).part(value)
    here.tensor[to] = value.to(here.tensor)
