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
from linnaeus.pth import Ranks, Shares, Stillness, all_torn, require_still
from linnaeus.state._by_name import is_by_name, numbered_as, optimizer_by_name
from linnaeus.state._loader import ResumableLoader
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._rng_of_ranks import RANKS, fresh_rng, own_rng, stream_rows
from linnaeus.state._shards import Boxes, shard_of
from linnaeus.state._share import Share, take_share
from linnaeus.state._spare import SpareMemory

_log = logging.getLogger(__name__)


def share_of(
    parts: RunParts,
    more: Mapping[str, Any],
    spare: SpareMemory,
    rank: int,
    world_size: int,
    *,
    copy: bool = False,
    is_held: bool = True,
) -> Share:
    """Return what this rank has of a run's state now; call it on every rank.

    Args:
        parts: The run.
        more: Plain values that belong to the checkpoint too.
        spare: Memory for copies that become necessary.
        rank: This process's number.
        world_size: How many there are.
        copy: Copy everything at once.
        is_held: Whether training is to go on while it is written; `Share.is_collective` tells if it can't.

    Raises:
        ConfigError: A part can't be saved by several ranks.
    """
    share = Share(rank, world_size)
    present = parts.by_key()
    state = {key: _each(part, lambda one: _state_of(one, present["model"])) for key, part in present.items()}
    if "data" in state and not _is_global(present["data"]):
        share.position = _as_json(state.pop("data"))
    share.streams = stream_rows()
    return take_share(parts, state, more, spare, share, copy=copy, is_held=is_held)


def capture_share(parts: RunParts, ranks: Ranks) -> tuple[dict[str, Any], Shares]:
    """Return the state of a run, whole in form, and what of it this rank has, to be written at once.

    Call it on every rank; nothing may change until it is written.

    Raises:
        ConfigError: A part can't be saved by several ranks.
        PeerFailedError: Some rank did not come.
    """
    share = share_of(parts, {}, SpareMemory(), ranks.rank, ranks.world_size, is_held=False)
    return begin_together(share, ranks)


def begin_together(share: Share, ranks: Ranks) -> tuple[dict[str, Any], Shares]:
    """Hold what this rank has, see to it that all do, and return it whole in form; call it on every rank.

    Raises:
        LinnaeusError: This rank can't have its share saved.
        TornSaveError: On some rank something did not hold still; on every rank.
        PeerFailedError: Another one can't, or is missing.
    """
    told = ranks.agree("beginning to save", lambda: _held(share, ranks), merge=_all_held)
    require_still("the checkpoint", told["torn"])
    return share.whole(told["positions"])


def _held(share: Share, ranks: Ranks) -> dict[str, list[Any]]:
    """Hold a share; return what to tell of it."""
    if share.problem is not None:
        raise share.problem
    still = Stillness(share.guard, ranks)
    with still.noted():
        share.hold()
    return {"positions": [] if share.position is None else [share.position], "torn": still.torn}


def _all_held(said: list[Any]) -> dict[str, list[Any]]:
    return {"positions": [one for each in said for one in each["positions"]], "torn": all_torn(said)}


def _each(part: Any, function: Any) -> Any:
    singles = flatten(part)
    return function(part) if list(singles) == [""] else {name: function(one) for name, one in singles.items()}


def _state_of(part: Any, model: nn.Module) -> Any:
    return optimizer_by_name(part, model) if is_optimizer(part) else part.state_dict()


def _is_global(loader: Any) -> bool:
    """Tell whether a data position is one for all ranks, since the order is."""
    return all(isinstance(one, ResumableLoader) for one in flatten(loader).values())


def _as_json(state: Any) -> Any:
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            field="CheckpointManager(loader=…)",
            expected=f"with several ranks a loader's state must be JSON values ({error})",
        ) from error


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
    own, boxes = dict(saved), Boxes()
    present = parts.by_key()
    for key, part in present.items():
        if key in saved and isinstance(saved[key], Mapping):
            own[key] = _own_part(part, saved[key], present["model"], path, boxes)
    if "rng" in saved:
        own["rng"] = _own_streams(saved["rng"], rank, world_size)
    if isinstance(saved.get("data"), Mapping) and RANKS in saved["data"]:
        own["data"] = _own_position(saved["data"][RANKS], path, rank, world_size)
    return own


def _own_part(part: Any, saved: Mapping[str, Any], model: nn.Module, path: str, boxes: Boxes) -> Any:
    singles = flatten(part)
    if list(singles) == [""]:
        return _own_single(part, saved, model, path, boxes)
    return {
        name: _own_single(singles[name], state, model, path, boxes)
        if name in singles and isinstance(state, Mapping)
        else state
        for name, state in saved.items()
    }


def _own_single(part: Any, saved: Mapping[str, Any], model: nn.Module, path: str, boxes: Boxes) -> Any:
    if isinstance(part, nn.Module):
        return _own_tensors(saved, part.state_dict(keep_vars=True), boxes)
    if not is_optimizer(part):
        return saved
    if is_by_name(saved):
        saved = numbered_as(part, model, saved, path)
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    states = saved.get("state")
    if not isinstance(states, Mapping):
        return saved
    own = {
        number: _own_tensors(state, dict.fromkeys(state, parameters[number]), boxes)
        if isinstance(number, int) and number < len(parameters)
        else state
        for number, state in states.items()
    }
    return {**saved, "state": own}


def _own_tensors(saved: Mapping[str, Any], mine: Mapping[str, Any], boxes: Boxes) -> Any:
    """Return values with a shard in place of each tensor that is distributed here and of the same shape."""
    own: Any = OrderedDict(saved) if isinstance(saved, OrderedDict) else dict(saved)
    vars(own).update(vars(saved)) if isinstance(own, OrderedDict) else None
    for name, value in saved.items():
        like = mine.get(name)
        if isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape:
            own[name] = shard_of(value, like, boxes)
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
