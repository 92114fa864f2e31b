"""One process or several: joining torchrun's ranks, and the wrapper around the model."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from linnaeus.errors import ConfigError


@contextlib.contextmanager
def ranks(parallel: str) -> Iterator[tuple[int, int]]:
    """Join the ranks that torchrun started for the length of the block; yield rank and world size.

    A process group that is there already is used and left alone.

    Raises:
        ConfigError: There are several ranks, and `TRAIN.PARALLEL` does not say how they share the work.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if parallel == "none":
        if world_size > 1:
            raise ConfigError(
                field="TRAIN.PARALLEL",
                expected=f'{world_size} ranks were started: should be "ddp" or "fsdp"',
                value=parallel,
            )
        yield 0, 1
        return
    mine = not distributed.is_initialized()
    if mine:
        _join()
    try:
        yield distributed.get_rank(), distributed.get_world_size()
        if mine:
            distributed.barrier()  # who leaves early takes the connections of the others away
    finally:
        if mine:
            gc.collect()  # models that outlive their process group make torch abort when the program ends
            distributed.destroy_process_group()


def _join() -> None:
    if "RANK" not in os.environ:
        raise ConfigError(
            field="TRAIN.PARALLEL",
            expected="ranks are started so: torchrun --nproc-per-node N --no-python linnaeus train …",
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")


def parallelized(model: nn.Module, parallel: str) -> nn.Module:
    """Return a model whose gradients are those of all ranks together.

    Args:
        model: On its device, with the same weights on every rank.
        parallel: "none", "ddp" (every rank has all of it), or "fsdp" (every rank has a shard).
    """
    if parallel == "ddp":
        # Else the second step sums gradients in another order than the first, and a resumed run, which has
        # a first step again, would not be bit for bit the uninterrupted one.
        return DistributedDataParallel(model, find_unused_parameters=True)
    if parallel == "fsdp":
        sharded: Any = fully_shard(model)
        return sharded  # type: ignore[no-any-return]
    return model


def is_sharded(model: nn.Module) -> bool:
    """Tell whether each rank has but a part of a model's weights."""
    return isinstance(model, FSDPModule)


def take_shards(model: nn.Module, whole: nn.Module) -> None:
    """Give each rank its part of the weights of a whole model, which every rank has."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, whole.state_dict(), options=options)
