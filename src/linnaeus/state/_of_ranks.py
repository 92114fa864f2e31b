"""The state of a run that several ranks hold together: what each has of it, and back, for any number.

In the file every tensor is whole and every optimizer's state is named by parameters, so nothing in it depends
on how many ranks wrote it but the random streams, which have a row for each.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from linnaeus.errors import ConfigError, ResumeMismatchError
from linnaeus.pth import Ranks, Shares
from linnaeus.state._by_name import is_by_name, numbered_as, optimizer_by_name
from linnaeus.state._loader import ResumableLoader
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._rng_of_ranks import RANKS, fresh_rng, own_rng, share_rng
from linnaeus.state._shards import shard_of, share

_log = logging.getLogger(__name__)


def capture_share(parts: RunParts, ranks: Ranks) -> tuple[dict[str, Any], Shares]:
    """Return the state of a run, whole in form, and what of it this rank has; call it on every rank.

    Raises:
        ConfigError: A part can't be saved by several ranks.
        PeerFailedError: Some rank did not come.
    """
    shares = Shares()
    present = parts.by_key()
    state = {key: _each(part, lambda one: _state_of(one, present["model"])) for key, part in present.items()}
    if "data" in state:
        state["data"] = _positions(present["data"], state["data"], ranks)
    _note_alike(parts, shares)
    whole: dict[str, Any] = _whole(state, shares)
    return whole | {"rng": share_rng(shares, ranks.rank, ranks.world_size)}, shares


def _each(part: Any, function: Any) -> Any:
    singles = flatten(part)
    return function(part) if list(singles) == [""] else {name: function(one) for name, one in singles.items()}


def _state_of(part: Any, model: nn.Module) -> Any:
    return optimizer_by_name(part, model) if is_optimizer(part) else part.state_dict()


def _positions(loader: Any, state: Any, ranks: Ranks) -> Any:
    """Return the data position: one for all where the order is global, else one for each rank."""
    if all(isinstance(one, ResumableLoader) for one in flatten(loader).values()):
        return state
    try:
        text = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            field="CheckpointManager(loader=…)",
            expected=f"with several ranks a loader's state must be JSON values ({error})",
        ) from error
    gathered = ranks.agree(
        "gathering data positions", lambda: [text], merge=lambda many: [one for part in many for one in part]
    )
    return {RANKS: gathered}


def _note_alike(parts: RunParts, shares: Shares) -> None:
    """Note what data parallelism keeps equal on all ranks: parameters and what optimizers know of them.

    Not buffers: a rank's batch statistics are its own until the next forward takes those of rank 0.
    """
    if not isinstance(parts.model, nn.parallel.DistributedDataParallel):
        return
    alike: list[torch.Tensor] = list(parts.model.parameters())
    for optimizer in filter(is_optimizer, flatten(parts.optimizer).values()):
        states = optimizer.state.values()
        alike += [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    for tensor in alike:
        shares.alike(tensor)


def _whole(node: Any, shares: Shares) -> Any:
    """Return a state with stand-ins for distributed tensors."""
    if isinstance(node, DTensor):
        return share(node, shares)
    if type(node) is dict:
        return {key: _whole(value, shares) for key, value in node.items()}
    if type(node) is OrderedDict:
        made = OrderedDict((key, _whole(value, shares)) for key, value in node.items())
        vars(made).update(vars(node))
        return made
    return type(node)(_whole(item, shares) for item in node) if type(node) in (list, tuple) else node


def own_share(
    parts: RunParts, saved: Mapping[str, Any], path: str, rank: int, world_size: int
) -> dict[str, Any]:
    """Return a saved state as this rank's run holds it: shards, numbers for names, its own streams.

    Nothing is copied: shards are views of the tensors in `saved`.

    Args:
        parts: The run.
        saved: The loaded checkpoint, of any number of ranks or of other programs.
        path: Where it came from, for messages.
        rank: This process's number.
        world_size: How many there are.

    Raises:
        ResumeMismatchError: It has other parameters, or positions of another number of ranks.
    """
    own = dict(saved)
    present = parts.by_key()
    for key, part in present.items():
        if key in saved and isinstance(saved[key], Mapping):
            own[key] = _own_part(part, saved[key], present["model"], path)
    if "rng" in saved:
        own["rng"] = _own_streams(saved["rng"], rank, world_size)
    if isinstance(saved.get("data"), Mapping) and RANKS in saved["data"]:
        own["data"] = _own_position(saved["data"][RANKS], path, rank, world_size)
    return own


def _own_part(part: Any, saved: Mapping[str, Any], model: nn.Module, path: str) -> Any:
    singles = flatten(part)
    if list(singles) == [""]:
        return _own_single(part, saved, model, path)
    return {
        name: _own_single(singles[name], state, model, path)
        if name in singles and isinstance(state, Mapping)
        else state
        for name, state in saved.items()
    }


def _own_single(part: Any, saved: Mapping[str, Any], model: nn.Module, path: str) -> Any:
    if isinstance(part, nn.Module):
        return _own_tensors(saved, part.state_dict(keep_vars=True))
    if not is_optimizer(part):
        return saved
    if is_by_name(saved):
        saved = numbered_as(part, model, saved, path)
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    states = saved.get("state")
    if not isinstance(states, Mapping):
        return saved
    own = {
        number: _own_tensors(state, dict.fromkeys(state, parameters[number]))
        if isinstance(number, int) and number < len(parameters)
        else state
        for number, state in states.items()
    }
    return {**saved, "state": own}


def _own_tensors(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> Any:
    """Return values with a shard in place of each tensor that is distributed here and of the same shape."""
    own: Any = OrderedDict(saved) if isinstance(saved, OrderedDict) else dict(saved)
    vars(own).update(vars(saved)) if isinstance(own, OrderedDict) else None
    for name, value in saved.items():
        like = mine.get(name)
        if isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape:
            own[name] = shard_of(value, like)
    return own


def _own_streams(saved: Mapping[str, Any], rank: int, world_size: int) -> Mapping[str, Any]:
    own = own_rng(saved, rank, world_size)
    if own is not None:
        return own
    if rank == 0:
        _log.warning(
            "%d ranks saved what %d resume: random streams begin anew, and batches are split otherwise;"
            " all else, the order of samples included, goes on exactly",
            saved.get(RANKS, 1),
            world_size,
        )
    return fresh_rng(saved, rank)


def _own_position(positions: Any, path: str, rank: int, world_size: int) -> Any:
    if len(positions) != world_size:
        raise ResumeMismatchError(
            path=path,
            problem=f"its loader told a position for each of {len(positions)} ranks; there are {world_size}",
            advice="linnaeus.ResumableLoader has one order for all ranks, whatever their number.",
        )
    return positions[rank]
