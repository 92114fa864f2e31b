"""Copies of containers and tensors that share nothing with a run, but for what is lent to be read in it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch

from linnaeus.state._guard import Guard
from linnaeus.state._spare import SpareMemory
from linnaeus.state._staging import Lent, Move, Owners, Staged, Staging, bytes_of

_IS_CPU = attrgetter("is_cpu")
_VALUES = frozenset((str, int, float, bool, type(None), bytes, complex))


@dataclass(slots=True)
class Freezer:
    """Walks over a content and makes it independent of the run, but for what is lent.

    Args:
        staging: How tensors come from devices; None to copy them at once.
        owners: Whose versions tell of changes, where not the tensors' own do.
    """

    staging: Staging | None
    owners: Owners = field(default_factory=dict)
    lent: list[Lent] = field(default_factory=list)
    on_devices: list[Lent] = field(default_factory=list)
    clones: list[Move] = field(default_factory=list)
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

    def guard(self, spare: SpareMemory) -> Guard | None:
        """Return the guard of what was lent; None when nothing was."""
        return Guard(self.lent, spare, owners=self.owners) if any(lent for lent, _ in self.lent) else None

    def staged(self) -> Staged | None:
        """Return what is on its way from devices; None when nothing is."""
        if self.staging is None or not (self.clones or any(lent for lent, _ in self.on_devices)):
            return None
        return Staged(self.staging, self.on_devices, self.clones, self.owners)

    def can_lend(self, value: torch.Tensor) -> bool:
        """Tell whether a tensor can be read while training goes on."""
        return value.is_cpu or self._has_lane(value.device)

    def _has_lane(self, device: torch.device) -> bool:
        return self.staging is not None and self.staging.lane(device) is not None

    def lend(self, tensors: dict[Any, torch.Tensor], content: dict[Any, Any]) -> None:
        """Have tensors that can be lent put into a dict of the content later."""
        if all(map(_IS_CPU, tensors.values())):
            self.lent.append((tensors, content))
            return
        self.lent.append(({name: one for name, one in tensors.items() if one.is_cpu}, content))
        self.on_devices.append(({name: one for name, one in tensors.items() if not one.is_cpu}, content))

    def keep(self, value: Any, frozen: Any) -> None:
        self.seen[id(value)] = (value, frozen)

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or not _is_plain(value):
            return _copy_unusual(value)
        return self._copy(value, value.untyped_storage())

    def _copy(self, value: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
        copied = self.storages.get(storage._cdata)
        if copied is None:
            copied = self.storages[storage._cdata] = self._copied(storage)
        tensor = torch.empty(0, dtype=value.dtype)
        tensor.set_(copied, value.storage_offset(), value.shape, value.stride())
        if type(value) is torch.nn.Parameter:
            return torch.nn.Parameter(tensor, requires_grad=value.requires_grad)
        return tensor.requires_grad_() if value.requires_grad else tensor

    def _copied(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if not self._has_lane(storage.device):  # always so on the CPU
            return torch.UntypedStorage(storage.nbytes()).copy_(storage)
        # Waiting for the device here would be waiting for all that training has enqueued on it.
        target = torch.empty(storage.nbytes(), dtype=torch.uint8)
        self.clones.append((target, bytes_of(storage).clone()))
        return target.untyped_storage()


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


def _freeze_dict(freezer: Freezer, value: dict[Any, Any]) -> dict[Any, Any]:
    if _VALUES.issuperset(map(type, value.values())):
        frozen = value.copy()
        freezer.keep(value, frozen)
        return frozen
    frozen = {}
    freezer.keep(value, frozen)
    for key, item in value.items():
        frozen[key] = freezer.node(item)
    return frozen


def _freeze_ordered(freezer: Freezer, value: OrderedDict[Any, Any]) -> OrderedDict[Any, Any]:
    frozen: OrderedDict[Any, Any] = OrderedDict()
    freezer.keep(value, frozen)
    for key, item in value.items():
        frozen[key] = freezer.node(item)
    vars(frozen).update(_freeze_dict(freezer, vars(value)))
    return frozen


def _freeze_counter(freezer: Freezer, value: Counter[Any]) -> Counter[Any]:
    frozen = Counter(value)
    freezer.keep(value, frozen)
    return frozen


def _freeze_list(freezer: Freezer, value: list[Any]) -> list[Any]:
    frozen: list[Any] = []
    freezer.keep(value, frozen)
    frozen.extend([freezer.node(item) for item in value])
    return frozen


def _freeze_tuple(freezer: Freezer, value: tuple[Any, ...]) -> tuple[Any, ...]:
    frozen = tuple([freezer.node(item) for item in value])
    freezer.keep(value, frozen)
    return frozen


def _freeze_set(freezer: Freezer, value: set[Any]) -> set[Any]:
    frozen = set(value)
    freezer.keep(value, frozen)
    return frozen


_CONTAINERS: dict[type, Callable[[Freezer, Any], Any]] = {
    dict: _freeze_dict,
    OrderedDict: _freeze_ordered,
    Counter: _freeze_counter,
    list: _freeze_list,
    tuple: _freeze_tuple,
    set: _freeze_set,
}
