"""A run's state at one instant, to be written while training goes on.

Parameters and optimizer state change only inside an optimizer's step, which a hook announces: they are
not copied, but guarded. Everything else (module buffers, averaged weights, random streams, positions,
numbers) may change at any time and is copied at once. So are tensors that no optimizer trains that we see.
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch

from linnaeus.state._guard import Guard
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._shards import local
from linnaeus.state._spare import SpareMemory
from linnaeus.state._staging import Lent, Move, Staged, Staging, bytes_of

_WORTH_A_WALK_BYTES = 1 << 20
_KIND = attrgetter("is_cpu", "layout", "is_nested", "requires_grad")
_IS_CPU = attrgetter("is_cpu")
_USUAL = (True, torch.strided, False, False)
_VALUES = frozenset((str, int, float, bool, type(None), bytes, complex))


@dataclass(slots=True)
class Snapshot:
    """What is to be saved.

    Args:
        content: The checkpoint's content.
        guard: Of the tensors on the CPU that are the run's own; None when there are none.
        staged: The tensors that are on their way from a GPU; None when there are none.
    """

    _content: dict[str, Any]
    guard: Guard | None = None
    staged: Staged | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The checkpoint's content; nothing in it is shared with the run but what `guard` guards.

        Waits for what is on its way from a GPU, and raises TornSaveError if that did not hold still.
        """
        if self.guard is not None:
            self.guard.settle()
        if self.staged is not None:
            self.staged.arrive()
        return self._content

    def release(self, *, hold_seconds: float, no_memory_seconds: float) -> None:
        """Return when parameters and optimizer state may be changed.

        Args:
            hold_seconds: How long to wait for the writer before what it has not read is copied.
            no_memory_seconds: How long to wait for it when there is no memory for a copy.
        """
        if self.staged is not None:
            self.staged.release()
        if self.guard is not None:
            self.guard.release(hold_seconds=hold_seconds, no_memory_seconds=no_memory_seconds)

    @property
    def is_copy(self) -> bool:
        """Whether training may change anything at once."""
        return self.guard is None and self.staged is None


def take_snapshot(
    parts: RunParts,
    others: Mapping[str, Any],
    spare: SpareMemory,
    *,
    copy: bool = False,
    state: dict[str, Any] | None = None,
) -> Snapshot:
    """Return a snapshot of a run as it is now.

    Args:
        parts: The run.
        others: What is to be saved beside the parts' states; nothing in it may change any more.
        spare: Memory for copies that become necessary.
        copy: Copy everything at once.
        state: What the parts have just given, ordinary tensors in it; None to ask them.
    """
    with no_collection():
        freezer = _Freezer(None if copy else spare.staging)
        state = parts.capture() if state is None else state
        frozen = freezer.node(state) if copy else {k: _part(freezer, parts, k, v) for k, v in state.items()}
        return Snapshot({**frozen, **others}, freezer.guard(spare), freezer.staged())


@contextmanager
def no_collection() -> Iterator[None]:
    """Make many objects that live on, without the collector walking over them all in between."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def hooked_optimizers(parts: RunParts) -> list[torch.optim.Optimizer]:
    """Return the optimizers whose steps can be seen coming."""
    return [one for one in flatten(parts.optimizer).values() if is_optimizer(one)]


def _trained(parts: RunParts) -> frozenset[int]:
    """Return the addresses of parameters that change only in the step of an optimizer we see."""
    groups = [group["params"] for one in hooked_optimizers(parts) for group in one.param_groups]
    trained = [local(p) for params in groups for p in params]
    return frozenset([p.data_ptr() for p in trained if _has_memory(p)])


def _frozen(parts: RunParts) -> frozenset[int]:
    """Return the addresses of parameters that nobody trains."""
    frozen = [local(p) for p in parts.model.parameters() if not p.requires_grad]
    return frozenset([p.data_ptr() for p in frozen if _has_memory(p)])


def _has_memory(value: torch.Tensor) -> bool:
    """Tell whether a tensor is a plain piece of memory."""
    return value.layout is torch.strided and not value.is_nested


def _part(freezer: _Freezer, parts: RunParts, key: str, content: Any) -> Any:
    """Freeze the state of one part; what it shares with the run is lent to the guard."""
    if key == "rng":
        return content  # was made for us
    if key == "model" and type(content) is OrderedDict:
        return _model(freezer, parts, content)
    if key == "optimizer":
        return _optimizers(freezer, parts, content)
    return freezer.node(content)


def _model(freezer: _Freezer, parts: RunParts, content: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    frozen, own = content.copy(), _trained(parts)
    lent = {name: item for name, item in content.items() if _is_in(item, own) and freezer.can_lend(item)}
    rest = content.keys() - lent.keys()
    # Looking for frozen parameters is a walk over all modules, which a few statistics are not worth.
    if (
        sum(content[name].nbytes for name in rest if type(content[name]) is torch.Tensor)
        > _WORTH_A_WALK_BYTES
    ):
        own = _frozen(parts)
        more = {name: content[name] for name in rest if _is_in(content[name], own)}
        lent |= {name: item for name, item in more.items() if freezer.can_lend(item)}
        rest -= lent.keys()
    for name in rest:
        frozen[name] = freezer.node(content[name])
    # The metadata of several hundred modules was made for us too.
    attributes = vars(content).items()
    vars(frozen).update({k: v if k == "_metadata" else freezer.node(v) for k, v in attributes})
    freezer.lend(lent, frozen)
    return frozen


def _is_in(item: Any, addresses: frozenset[int]) -> bool:
    return type(item) is torch.Tensor and _has_memory(item) and item.data_ptr() in addresses


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
        key: _optimizer_state(freezer, value) if key == "state" else freezer.node(value)
        for key, value in content.items()
    }


def _optimizer_state(freezer: _Freezer, state: Any) -> Any:
    """Freeze what an optimizer knows of each parameter, tensors that only its step changes.

    There are several hundred, and training waits: so without a loop in Python where nothing is unusual.
    """
    if not set(map(type, state.values())) <= {dict}:
        return freezer.node(state)
    entries = [entry.copy() for entry in state.values()]
    items = [item for entry in entries for item in entry.values()]
    if set(map(type, items)) <= {torch.Tensor} and set(map(_KIND, items)) <= {_USUAL}:
        freezer.lent += zip(entries, entries, strict=True)
    else:
        entries = [_unusual_entry(freezer, entry) for entry in entries]
    return dict(zip(state, entries, strict=True))


def _unusual_entry(freezer: _Freezer, entry: dict[Any, Any]) -> dict[Any, Any]:
    lent = {name: item for name, item in entry.items() if _is_changed_by_steps_only(item, freezer)}
    frozen = {name: None if name in lent else freezer.node(item) for name, item in entry.items()}
    freezer.lend(lent, frozen)
    return frozen


def _is_changed_by_steps_only(item: Any, freezer: _Freezer) -> bool:
    plain = type(item) is torch.Tensor and _has_memory(item) and not item.requires_grad
    return plain and freezer.can_lend(item)


@dataclass(slots=True)
class _Freezer:
    """Walks over a content and makes it independent of the run, but for what is lent.

    Args:
        staging: How tensors come from devices; None to copy them at once.
    """

    staging: Staging | None
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
        return Guard(self.lent, spare) if any(lent for lent, _ in self.lent) else None

    def staged(self) -> Staged | None:
        """Return what is on its way from devices; None when nothing is."""
        if self.staging is None or not (self.clones or any(lent for lent, _ in self.on_devices)):
            return None
        return Staged(self.staging, self.on_devices, self.clones)

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


def _freeze_dict(freezer: _Freezer, value: dict[Any, Any]) -> dict[Any, Any]:
    if _VALUES.issuperset(map(type, value.values())):
        frozen = value.copy()
        freezer.keep(value, frozen)
        return frozen
    frozen = {}
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
