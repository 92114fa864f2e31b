"""One saved state into one part of a run, without a second copy of it in memory where that can be avoided."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from linnaeus.pth import MappedFile
from linnaeus.state._parts import is_optimizer


def load_part(part: Any, state: Any, source: MappedFile | None) -> Callable[[], None]:
    """Give a part its saved state.

    Args:
        part: A module, an optimizer or anything else with `load_state_dict`.
        state: What it is given.
        source: The mapped file that the state's tensors lie in, if they do.

    Returns:
        What remains to be done once every part has taken its state, since it can't be undone.
    """
    if isinstance(part, nn.Module):
        part.load_state_dict(_filled(part, state, source) if source and only_copies(part) else state)
        return _nothing
    # Others keep the tensors that they are given: copies, since the file's pages would be read one by one
    # when a step first touches them. An optimizer's large ones are read afterwards.
    held = dict(part.state) if is_optimizer(part) else {}
    state = _in_memory(state, source if is_optimizer(part) else None)
    part.load_state_dict(state)
    if not is_optimizer(part):
        return _nothing
    _keep_dtypes(part, state)
    return lambda: _own_state(part, held, source) if source else None


def _nothing() -> None:
    pass


def only_copies(part: Any) -> bool:
    """Tell whether loading a state only copies tensors: nobody else's code sees it and may refuse it."""
    if not isinstance(part, nn.Module) or type(part).load_state_dict is not nn.Module.load_state_dict:
        return False
    return not any(
        one._load_state_dict_pre_hooks
        or (
            type(one)._load_from_state_dict is not nn.Module._load_from_state_dict
            and not type(one)._load_from_state_dict.__module__.startswith("torch.nn.")
        )
        for one in part.modules()
    )


def _filled(module: nn.Module, state: Mapping[str, Any], source: MappedFile) -> Mapping[str, Any]:
    """Read the file into a module's tensors, and return the state with those in it.

    Loading that costs nothing more, as each is copied onto itself, and does all else that loading does.
    """
    mine = module.state_dict(keep_vars=True)
    tensors = {name: t for name, t in mine.items() if type(t) in (torch.Tensor, nn.Parameter)}
    sharing = Counter(t.untyped_storage().data_ptr() for t in tensors.values())
    # What shares memory is left to be copied, in the module's order.
    direct = {
        name: tensor
        for name, tensor in tensors.items()
        if source.holds(state[name]) and sharing[tensor.untyped_storage().data_ptr()] == 1
    }
    source.fill((tensor, state[name]) for name, tensor in direct.items())
    filled: Any = copy.copy(state)  # with the versions that it carries as an attribute
    filled.update(direct)
    return filled  # type: ignore[no-any-return]


def _in_memory(node: Any, source: MappedFile | None) -> Any:
    """Return a state with copies of its tensors, except those that lie in the file."""
    if isinstance(node, torch.Tensor):
        held = node.device.type != "cpu" or (source is not None and source.holds(node))
        return node if held else node.clone()
    if type(node) is dict:
        return {key: _in_memory(value, source) for key, value in node.items()}
    return [_in_memory(item, source) for item in node] if type(node) is list else node


def _keep_dtypes(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Give state tensors their saved dtype back: torch casts them to the parameter's, which loses bits."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for name, value in state["state"].get(index, {}).items():
            mine = optimizer.state[parameter].get(name)
            if (
                isinstance(value, torch.Tensor)
                and isinstance(mine, torch.Tensor)
                and mine.dtype != value.dtype
            ):
                optimizer.state[parameter][name] = value.to(mine.device)


def _own_state(optimizer: Any, held: Mapping[Any, Any], source: MappedFile) -> None:
    """Read an optimizer's state out of the file, into the tensors that it held before where they fit."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for parameter, state in optimizer.state.items():
        optimizer.state[parameter] = _owned(state, held.get(parameter), source, pairs)
    source.fill(pairs)


def _owned(node: Any, before: Any, source: MappedFile, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Return a state with tensors to be filled in place of those in the file, and add both to the pairs."""
    if isinstance(node, torch.Tensor):
        if not source.holds(node):
            return node
        fits = isinstance(before, torch.Tensor) and (before.shape, before.dtype) == (node.shape, node.dtype)
        target = before if fits and before.device == node.device else torch.empty_like(node)
        pairs.append((target, node))
        return target
    if type(node) is dict:
        inside = before if isinstance(before, dict) else {}
        return {key: _owned(value, inside.get(key), source, pairs) for key, value in node.items()}
    return [_owned(item, None, source, pairs) for item in node] if type(node) is list else node
