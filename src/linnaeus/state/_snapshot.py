"""A run's state at one instant, to be written while training goes on.

Parameters and optimizer state change only inside an optimizer's step, which a hook announces: they are
not copied, but guarded. Everything else (module buffers, averaged weights, random streams, positions,
numbers) may change at any time and is copied at once. So are tensors that no optimizer trains that we see.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch

from linnaeus.pth import collection_paused
from linnaeus.state._freezer import Freezer
from linnaeus.state._guard import Guard
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._shards import local
from linnaeus.state._spare import SpareMemory
from linnaeus.state._staging import Owners, Staged

_WORTH_A_WALK_BYTES = 1 << 20
_KIND = attrgetter("is_cpu", "layout", "is_nested", "requires_grad")
_USUAL = (True, torch.strided, False, False)


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
        content = self.layout
        if self.staged is not None:
            self.staged.arrive()
        return content

    @property
    def layout(self) -> dict[str, Any]:
        """The same, at once: the values of tensors that are on their way from a GPU may be missing."""
        if self.guard is not None:
            self.guard.settle()
        if self.staged is not None:
            self.staged.begin()
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
    owners: Owners = MappingProxyType({}),
) -> Snapshot:
    """Return a snapshot of a run as it is now.

    Args:
        parts: The run.
        others: What is to be saved beside the parts' states; nothing in it may change any more.
        spare: Memory for copies that become necessary.
        copy: Copy everything at once.
        state: What the parts have just given, ordinary tensors in it; None to ask them.
        owners: Whose versions tell of changes of these, where not their own do.
    """
    with collection_paused():
        freezer = Freezer(None if copy else spare.staging, owners)
        state = parts.capture() if state is None else state
        frozen = freezer.node(state) if copy else {k: _part(freezer, parts, k, v) for k, v in state.items()}
        return Snapshot({**frozen, **others}, freezer.guard(spare), freezer.staged())


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


def _part(freezer: Freezer, parts: RunParts, key: str, content: Any) -> Any:
    """Freeze the state of one part; what it shares with the run is lent to the guard."""
    if key == "rng":
        return content  # was made for us
    if key == "model" and type(content) is OrderedDict:
        return _model(freezer, parts, content)
    if key == "optimizer":
        return _optimizers(freezer, parts, content)
    return freezer.node(content)


def _model(freezer: Freezer, parts: RunParts, content: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    frozen, own = content.copy(), _trained(parts)
    lent = {name: item for name, item in content.items() if _is_in(item, own) and freezer.can_lend(item)}
    rest = content.keys() - lent.keys()
    plain = [item for name in rest if type(item := content[name]) is torch.Tensor and _has_memory(item)]
    # Looking for frozen parameters is a walk over all modules, which a few statistics are not worth.
    if sum(item.nbytes for item in plain) > _WORTH_A_WALK_BYTES:
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


def _optimizers(freezer: Freezer, parts: RunParts, content: Any) -> Any:
    """Freeze the states of all optimizers; those whose steps are seen coming keep their tensors."""
    singles = flatten(parts.optimizer)
    if list(singles) == [""]:
        return _optimizer(freezer, singles[""], content)
    return {name: _optimizer(freezer, one, content[name]) for name, one in singles.items()}


def _optimizer(freezer: Freezer, optimizer: Any, content: Any) -> Any:
    if not is_optimizer(optimizer) or type(content) is not dict:
        return freezer.node(content)
    return {
        key: _optimizer_state(freezer, value) if key == "state" else freezer.node(value)
        for key, value in content.items()
    }


def _optimizer_state(freezer: Freezer, state: Any) -> Any:
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


def _unusual_entry(freezer: Freezer, entry: dict[Any, Any]) -> dict[Any, Any]:
    lent = {name: item for name, item in entry.items() if _is_changed_by_steps_only(item, freezer)}
    frozen = {name: None if name in lent else freezer.node(item) for name, item in entry.items()}
    freezer.lend(lent, frozen)
    return frozen


def _is_changed_by_steps_only(item: Any, freezer: Freezer) -> bool:
    plain = type(item) is torch.Tensor and _has_memory(item) and not item.requires_grad
    return plain and freezer.can_lend(item)
