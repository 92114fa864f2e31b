"""The parts of a run that a checkpoint holds, and how each is taken out as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from linnaeus.errors import ConfigError
from linnaeus.state._rng import capture_rng

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@runtime_checkable
class Stateful(Protocol):
    """Anything that gives its state as plain values and tensors, and takes it back."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take over a state that `state_dict` returned."""


Parts = Stateful | Sequence[Stateful] | Mapping[str, Stateful] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """What a run consists of. Several optimizers or schedulers are given as a list or a dict.

    Raises:
        ConfigError: A part has no `state_dict` and `load_state_dict`.
    """

    model: nn.Module
    optimizer: Parts = None
    lr_scheduler: Parts = None
    scaler: Parts = None
    ema: Parts = None
    loader: Parts = None

    def __post_init__(self) -> None:
        for key, part in self.by_key().items():
            for name, stateful in flatten(part).items():
                if not isinstance(stateful, Stateful):
                    raise ConfigError(
                        field=f"CheckpointManager({key}=…)",
                        expected=f"{name or key} needs state_dict() and load_state_dict();"
                        f" {type(stateful).__name__} has not both"
                        + (f". {_LOADER_ADVICE}" if key == "data" else ""),
                    )

    def by_key(self) -> dict[str, Any]:
        """Return the parts that there are under their keys in a checkpoint, the model unwrapped."""
        named = {"data" if f.name == "loader" else f.name: getattr(self, f.name) for f in fields(self)}
        present = {key: part for key, part in named.items() if part is not None}
        return present | {"model": unwrapped(self.model)}

    def capture(self) -> dict[str, Any]:
        """Return the state of every part and of the random streams; tensors are the live ones, not copies."""
        return {key: _map(part, lambda one: one.state_dict()) for key, part in self.by_key().items()} | {
            "rng": capture_rng()
        }


_LOADER_ADVICE = (
    "Use linnaeus.ResumableLoader or torchdata's StatefulDataLoader, or leave loader out: a run is then"
    " resumed exactly at the ends of epochs only"
)


def flatten(part: Any) -> dict[str, Any]:
    """Return the single parts of a part, by name ("" for a part that is one)."""
    if isinstance(part, Mapping):
        return {str(name): one for name, one in part.items()}
    if isinstance(part, (list, tuple)):
        return {str(number): one for number, one in enumerate(part)}
    return {"": part}


def _map(part: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(part, (Mapping, list, tuple)):
        return {name: function(one) for name, one in flatten(part).items()}
    return function(part)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside data-parallel and compile wrappers, whose parameter names carry no prefix."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def is_optimizer(part: object) -> bool:
    """Tell whether a part is a torch optimizer, whose state needs care with dtypes."""
    return isinstance(part, torch.optim.Optimizer)
