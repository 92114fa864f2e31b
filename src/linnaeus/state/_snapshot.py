"""A run's state at one instant, to be written while training goes on.

Parameters and optimizer state change only inside an optimizer's step, which a hook announces: they are
not copied, but guarded. Everything else (module buffers, averaged weights, random streams, positions,
numbers) may change at any time and is copied at once. So are tensors that no optimizer trains that we see.
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from linnaeus.state._guard import Guard
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._spare import SpareMemory

_VALUES = frozenset((str, int, float, bool, type(None), bytes, complex))


@dataclass(slots=True)
class Snapshot:
    """What is to be saved.

    Attributes:
        content: The checkpoint's content; nothing in it is shared with the run but what `guard` guards.
        guard: Of the tensors that are the run's own; None when there are none.
    """

    content: dict[str, Any]
    guard: Guard | None = None

    @property
    def is_copy(self) -> bool:
        """Whether training may change anything at once."""
        return self.guard is None


def take_snapshot(
    parts: RunParts, content: Mapping[str, Any], spare: SpareMemory, *, copy: bool = False
) -> Snapshot:
    """Return a snapshot of a content that the parts have just given.

    Args:
        parts: The run.
        content: What `RunParts.capture` returned, and more.
        spare: Memory for copies that become necessary.
        copy: Copy everything at once.
    """
    was_on = gc.isenabled()
    gc.disable()  # many objects are made that live on, and a collection would only walk over them
    try:
        freezer = _Freezer(frozenset() if copy else _own_storages(parts))
        frozen = {
            key: freezer.node(value) if copy or key != "optimizer" else _optimizers(freezer, parts, value)
            for key, value in content.items()
        }
        return Snapshot(frozen, Guard(freezer.live, spare) if freezer.live else None)
    finally:
        if was_on:
            gc.enable()


def hooked_optimizers(parts: RunParts) -> list[torch.optim.Optimizer]:
    """Return the optimizers whose steps can be seen coming."""
    return [one for one in flatten(parts.optimizer).values() if is_optimizer(one)]


def _own_storages(parts: RunParts) -> frozenset[int]:
    """Return the storages of parameters, by `_cdata`, that change only in the step of an optimizer we see."""
    groups = [group["params"] for one in hooked_optimizers(parts) for group in one.param_groups]
    trained = {id(p) for params in groups for p in params}
    own = [p for p in parts.model.parameters() if not p.requires_grad or id(p) in trained]
    return frozenset([p.untyped_storage()._cdata for p in own if _is_readable(p)])


def _is_readable(value: torch.Tensor) -> bool:
    """Tell whether the writer can read a tensor's memory where it is."""
    return value.is_cpu and value.layout is torch.strided and not value.is_nested


def _optimizers(freezer: _Freezer, parts: RunParts, content: Any) -> Any:
    """Freeze the states of all optimizers; those whose steps are seen coming keep their tensors."""
    singles = flatten(parts.optimizer)
    if list(singles) == [""]:
        return _optimizer(freezer, singles[""], content)
    return {name: _optimizer(freezer, one, content[name]) for name, one in singles.items()}


def _optimizer(freezer: _Freezer, optimizer: Any, content: Any) -> Any:
    if not is_optimizer(optimizer) or type(content) is not dict:
        return freezer.node(content)
    return {
        key: {index: _own_state(freezer, entry) for index, entry in value.items()}
        if key == "state"
        else freezer.node(value)
        for key, value in content.items()
    }


def _own_state(freezer: _Freezer, entry: Any) -> Any:
    """Freeze one parameter's state; several hundred of these make a save, so it is kept short."""
    if type(entry) is not dict:
        return freezer.node(entry)
    return {
        name: freezer.alias(item)
        if type(item) is torch.Tensor and not item.requires_grad and _is_readable(item)
        else freezer.node(item)
        for name, item in entry.items()
    }


@dataclass(slots=True)
class _Freezer:
    """Walks over a content and makes it independent of the run."""

    own: frozenset[int]
    live: list[torch.Tensor] = field(default_factory=list)
    # By id, with the object, because an id is only unique while its object lives.
    seen: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def node(self, value: Any) -> Any:
        kind = type(value)
        if kind in _VALUES:
            return value
        known = self.seen.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, torch.Tensor):
            frozen = self._tensor(value)
            self.seen[id(value)] = (value, frozen)
            return frozen
        freeze = _CONTAINERS.get(kind)
        # What is no container is left to the writer, which refuses it with its place.
        return value if freeze is None else freeze(self, value)

    def keep(self, value: Any, frozen: Any) -> None:
        self.seen[id(value)] = (value, frozen)

    def alias(self, value: torch.Tensor) -> torch.Tensor:
        """Return another handle with the same memory and version counter, to be guarded."""
        alias = value.detach()
        self.live.append(alias)
        return alias

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        kind = type(value)
        ours = kind is torch.Tensor and value.layout is torch.strided and not value.requires_grad
        if ours and value.untyped_storage()._cdata in self.own:
            return self.alias(value)
        if kind not in (torch.Tensor, torch.nn.Parameter) or not _is_plain(value):
            return _copy_unusual(value)
        return self._copy(value, value.untyped_storage())

    def _copy(self, value: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
        copied = self.storages.get(storage._cdata)
        if copied is None:
            copied = self.storages[storage._cdata] = storage.cpu() if not value.is_cpu else storage.clone()
        tensor = torch.empty(0, dtype=value.dtype)
        tensor.set_(copied, value.storage_offset(), value.shape, value.stride())
        if type(value) is torch.nn.Parameter:
            return torch.nn.Parameter(tensor, requires_grad=value.requires_grad)
        return tensor.requires_grad_() if value.requires_grad else tensor


def _is_plain(value: torch.Tensor) -> bool:
    return (
        value.layout is torch.strided
        and not (value.is_nested or value.is_meta or value.is_quantized or value.is_conj() or value.is_neg())
        and not vars(value)
    )


def _copy_unusual(value: torch.Tensor) -> torch.Tensor:
    if value.is_meta or vars(value):  # nothing to copy; or not to be saved, as the writer will say
        return value
    copied = value.detach().clone()
    return copied.requires_grad_() if value.requires_grad else copied


def _freeze_dict(freezer: _Freezer, value: dict[Any, Any]) -> dict[Any, Any]:
    frozen: dict[Any, Any] = {}
    freezer.keep(value, frozen)
    for key, item in value.items():
        frozen[key] = freezer.node(item)
    return frozen


def _freeze_ordered(freezer: _Freezer, value: OrderedDict[Any, Any]) -> OrderedDict[Any, Any]:
    frozen: OrderedDict[Any, Any] = OrderedDict()
    freezer.keep(value, frozen)
    for key, item in value.items():
        frozen[key] = freezer.node(item)
    vars(frozen).update(_freeze_dict(freezer, vars(value)))
    return frozen


def _freeze_counter(freezer: _Freezer, value: Counter[Any]) -> Counter[Any]:
    frozen = Counter(value)
    freezer.keep(value, frozen)
    return frozen


def _freeze_list(freezer: _Freezer, value: list[Any]) -> list[Any]:
    frozen: list[Any] = []
    freezer.keep(value, frozen)
    frozen.extend([freezer.node(item) for item in value])
    return frozen


def _freeze_tuple(freezer: _Freezer, value: tuple[Any, ...]) -> tuple[Any, ...]:
    frozen = tuple([freezer.node(item) for item in value])
    freezer.keep(value, frozen)
    return frozen


def _freeze_set(freezer: _Freezer, value: set[Any]) -> set[Any]:
    frozen = set(value)
    freezer.keep(value, frozen)
    return frozen


_CONTAINERS: dict[type, Callable[[_Freezer, Any], Any]] = {
    dict: _freeze_dict,
    OrderedDict: _freeze_ordered,
    Counter: _freeze_counter,
    list: _freeze_list,
    tuple: _freeze_tuple,
    set: _freeze_set,
}
