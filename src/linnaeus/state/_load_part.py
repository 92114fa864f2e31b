"""One saved state into one part of a run, without a second copy of it in memory where that can be avoided."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from linnaeus.pth import Source
from linnaeus.state._parts import is_optimizer
from linnaeus.state._shards import local, tensors_in

# Where the hooks of FSDP2 are defined.
_OF_SHARDING = "torch.distributed.fsdp."


def load_part(part: Any, state: Any, source: Source | None) -> Callable[[], None]:
    """Give a part its saved state.

    Args:
        part: A module, an optimizer or anything else with `load_state_dict`.
        state: What it is given.
        source: The mapped file that the state's tensors lie in, if they do.

    Returns:
        What remains to be done once every part has taken its state, since it can't be undone.
    """
    if source is not None and not _is_filled(part):
        source.ready(tensors_in(state))
    if isinstance(part, nn.Module):
        part.load_state_dict(_filled(part, state, source) if source and only_copies(part) else state)
        return _nothing
    # Others keep the tensors that they are given: copies, since the file's pages would be read one by one
    # when a step first touches them. An optimizer's large ones are read afterwards.
    held = dict(part.state) if is_optimizer(part) else {}
    state = _in_memory(state, source if is_optimizer(part) else None, {})
    part.load_state_dict(state)
    if not is_optimizer(part):
        return _nothing
    _keep_dtypes(part, state)
    return lambda: _own_state(part, held, source) if source else None


def _nothing() -> None:
    pass


def _is_filled(part: Any) -> bool:
    """Tell whether tensors are read into a part where they belong, and nobody looks at them before."""
    return only_copies(part) or (is_optimizer(part) and _only_keeps(part))


def _only_keeps(optimizer: Any) -> bool:
    """Tell whether loading a state only keeps its tensors: no code but torch's, and no other device."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return False
    if optimizer._optimizer_load_state_dict_pre_hooks or optimizer._optimizer_load_state_dict_post_hooks:
        return False
    groups = optimizer.param_groups
    return all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])


def only_copies(part: Any) -> bool:
    """Tell whether loading a state only copies tensors: nobody else's code sees it and may refuse it."""
    if not isinstance(part, nn.Module) or type(part).load_state_dict is not nn.Module.load_state_dict:
        return False
    return not any(_has_own_hooks(one) or _has_own_loading(type(one)) for one in part.modules())


def _has_own_hooks(module: nn.Module) -> bool:
    """Tell whether hooks see a state before it is loaded; those of FSDP2 only shard the module if need be."""
    found = [getattr(one, "hook", one) for one in module._load_state_dict_pre_hooks.values()]
    return any(not str(getattr(hook, "__module__", "")).startswith(_OF_SHARDING) for hook in found)


def _has_own_loading(kind: type[nn.Module]) -> bool:
    if kind.set_extra_state is not nn.Module.set_extra_state:
        return True
    load = kind._load_from_state_dict
    return load is not nn.Module._load_from_state_dict and not load.__module__.startswith("torch.nn.")


def _filled(module: nn.Module, state: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    """Read the file into a module's tensors, and return the state with those in it.

    Loading that costs nothing more, as each is copied onto itself, and does all else that loading does.
    """
    mine = module.state_dict(keep_vars=True)
    tensors = {name: tensor for name, tensor in mine.items() if _is_plain(tensor)}
    sharing = Counter(local(t).untyped_storage().data_ptr() for t in tensors.values())
    # What shares memory is left to be copied, in the module's order.
    direct = {
        name: tensor
        for name, tensor in tensors.items()
        if source.holds(local(state[name])) and sharing[local(tensor).untyped_storage().data_ptr()] == 1
    }
    source.ready(tensors_in([value for name, value in state.items() if name not in direct]))
    source.fill((local(tensor), local(state[name])) for name, tensor in direct.items())
    filled: Any = copy.copy(state)  # with the versions that it carries as an attribute
    filled.update(direct)
    return filled  # type: ignore[no-any-return]


def _in_memory(node: Any, source: Source | None, made: dict[int, Any]) -> Any:
    """Return a state with copies of its tensors, except those that lie in the file.

    What stands in several places still does: `made` has each copy by the id of what it is of.
    """
    if id(node) in made:
        return made[id(node)]
    if isinstance(node, torch.Tensor):
        if node.device.type != "cpu" or (source is not None and source.holds(local(node))):
            return node
        made[id(node)] = node.detach().clone().requires_grad_(node.requires_grad)
        return made[id(node)]
    if type(node) is dict:
        copied: dict[Any, Any] = made.setdefault(id(node), {})
        copied.update((key, _in_memory(value, source, made)) for key, value in node.items())
        return copied
    if type(node) is list:
        items: list[Any] = made.setdefault(id(node), [])
        items.extend(_in_memory(item, source, made) for item in node)
        return items
    return node


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


def _own_state(optimizer: Any, held: Mapping[Any, Any], source: Source) -> None:
    """Read an optimizer's state out of the file, into the tensors that it held before where they fit."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    owning = _Owning(source, {_memory_of(parameter) for parameter in parameters})
    for parameter, state in optimizer.state.items():
        optimizer.state[parameter] = owning.node(state, held.get(parameter))
    source.fill(owning.pairs.values())


class _Owning:
    """Puts tensors to be filled in place of those in the file."""

    def __init__(self, source: Source, taken: set[int]) -> None:
        self._source = source
        # Memory that is somebody's already: of parameters, and of targets.
        self._taken = taken
        # Target and what it gets, by the id of the latter: what stands in several places is filled once.
        self.pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._targets: dict[int, torch.Tensor] = {}

    def node(self, node: Any, before: Any) -> Any:
        """Return a state with targets for its tensors, those that stood there `before` where they fit."""
        if isinstance(node, torch.Tensor):
            if not self._source.holds(local(node)):
                return node
            if id(node) not in self.pairs:
                self._targets[id(node)] = target = self._target(node, before)
                self.pairs[id(node)] = local(target), local(node)
            return self._targets[id(node)]
        if type(node) is dict:
            inside = before if isinstance(before, dict) else {}
            return {key: self.node(value, inside.get(key)) for key, value in node.items()}
        return [self.node(item, None) for item in node] if type(node) is list else node

    def _target(self, node: torch.Tensor, before: Any) -> torch.Tensor:
        alike = _is_plain(before) and isinstance(before, DTensor) == isinstance(node, DTensor)
        fits = alike and (before.shape, before.dtype) == (node.shape, node.dtype)
        if not fits or before.device != node.device or _memory_of(before) in self._taken:
            return torch.empty_like(node)
        self._taken.add(_memory_of(before))
        target: torch.Tensor = before
        return target


def _is_plain(tensor: Any) -> bool:
    """Tell whether something is a tensor whose elements lie in one storage."""
    return type(tensor) in (torch.Tensor, nn.Parameter, DTensor) and tensor.layout is torch.strided


def _memory_of(tensor: torch.Tensor) -> int:
    """Return where a tensor's memory begins; 0 where it has not one of its own."""
    return local(tensor).untyped_storage().data_ptr() if _is_plain(tensor) else 0
