"""An optimizer's state by the names of parameters instead of their numbers, so that it survives re-grouping.

The form is that of `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from linnaeus.errors import ConfigError, ResumeMismatchError


def optimizer_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return an optimizer's state with names for numbers.

    Raises:
        ConfigError: It has a parameter that is not the model's.
    """
    plain = optimizer.state_dict()
    names = _names(optimizer, model)
    numbered = {
        number: name
        for group, named in zip(plain["param_groups"], names, strict=True)
        for number, name in zip(group["params"], named, strict=True)
    }
    return {
        "state": {numbered[number]: state for number, state in plain["state"].items()},
        "param_groups": [
            group | {"params": named} for group, named in zip(plain["param_groups"], names, strict=True)
        ],
    }


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    try:
        return [[known[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    except KeyError as error:
        raise ConfigError(
            field="CheckpointManager(optimizer=…)",
            expected="with several ranks an optimizer must have the model's parameters only",
        ) from error


def is_by_name(saved: Mapping[str, Any]) -> bool:
    """Tell whether an optimizer's saved state has names."""
    groups = saved.get("param_groups")
    if not isinstance(groups, list):
        return False
    return any(isinstance(name, str) for group in groups for name in group.get("params", ()))


def numbered_as(
    optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return a saved state that has names with this optimizer's numbers and groups.

    Raises:
        ResumeMismatchError: A parameter is missing on either side, or parameters that were in groups of
            other settings are in one here.
    """
    mine = _names(optimizer, model)
    flat = [name for names in mine for name in names]
    options = {name: group for group in saved["param_groups"] for name in group["params"]}
    missing, extra = sorted({*flat} - {*options}), sorted({*options} - {*flat})
    if missing or extra:
        raise ResumeMismatchError(
            path=path,
            problem="its optimizer has other parameters",
            details=[f"optimizer: {name} is not in the checkpoint" for name in missing]
            + [f"optimizer: {name} is not in this run" for name in extra],
        )
    groups, start = [], 0
    for names in mine:
        settings = [{k: v for k, v in options[name].items() if k != "params"} for name in names]
        if any(one != settings[0] for one in settings):
            raise ResumeMismatchError(
                path=path, problem=f"its optimizer has other settings for some of {', '.join(names[:3])}…"
            )
        groups.append((settings[0] if settings else {}) | {"params": [*range(start, start + len(names))]})
        start += len(names)
    state = {number: saved["state"][name] for number, name in enumerate(flat) if name in saved["state"]}
    return {"state": state, "param_groups": groups}
