"""Put a saved state back into a run: all of it, or nothing.

Everything that can be compared is compared before anything is changed. What can only be tried (schedulers,
scalers, data positions, a user's own classes) is tried first and set back if a later part refuses; models
whose loading is only copying, which are large and were compared, come last.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from linnaeus.errors import CheckpointInvalidError, ResumeMismatchError
from linnaeus.pth import Source
from linnaeus.state._load_part import load_part, only_copies
from linnaeus.state._parts import RunParts, flatten, is_optimizer
from linnaeus.state._rng import capture_rng, restore_rng
from linnaeus.state._shards import tensors_in

# What any checkpoint to resume from must hold, if the run has it; files of other programs and earlier
# versions have no more.
_ESSENTIAL = ("model", "optimizer", "lr_scheduler")
# Rising size: what is small is cheap to set back.
_ORDER = ("lr_scheduler", "scaler", "data", "ema", "optimizer", "model")
_EXTRA_STATE = "_extra_state"  # how torch names it
# What a user's own load_state_dict raises when it is given something else than it saved.
_REFUSALS = (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError)


def restore(
    parts: RunParts,
    saved: Mapping[str, Any],
    path: str,
    *,
    complete: bool,
    skip: frozenset[str] = frozenset(),
    source: Source | None = None,
) -> list[str]:
    """Put a saved state into the parts of a run.

    Args:
        parts: The run.
        saved: The loaded checkpoint.
        path: Where it came from, for messages.
        complete: Whether the checkpoint must hold every part that the run has, as our own do. Others
            must hold model, optimizer and scheduler.
        skip: Keys of parts to leave as they are.
        source: The mapped file, or the directory, that `saved` is of; what lies in it is read straight into
            the tensors of the run. Without it, `saved` is copied.

    Returns:
        The keys of the parts that the checkpoint does not hold, which were left as they are.

    Raises:
        ResumeMismatchError: Some part does not fit; nothing was changed.
        CheckpointInvalidError: The file can't be read anymore; the run may be changed in part.
    """
    present = {key: part for key, part in parts.by_key().items() if key not in skip}
    missing = [key for key in (*present, "rng") if key not in saved and key not in skip]
    problems = _differences(present, saved, missing, complete=complete, skip=skip)
    if problems:
        raise ResumeMismatchError(
            path=path,
            problem="it does not hold the parts of this run",
            advice="To start a new run from its weights, use MODEL.PRETRAINED.",
            details=problems,
        )
    _apply(present, saved, path, source, streams="rng" in saved and "rng" not in skip)
    return missing


def _differences(
    present: Mapping[str, Any],
    saved: Mapping[str, Any],
    missing: list[str],
    *,
    complete: bool,
    skip: frozenset[str],
) -> list[str]:
    problems = [
        f"{key}: this run has it, the checkpoint has not" for key in missing if complete or key in _ESSENTIAL
    ]
    extra = [key for key in _ORDER if key in saved and key not in present and key not in skip]
    # Earlier versions write None where a run has no such part.
    problems += [f"{key}: the checkpoint has it, this run has not" for key in extra if saved[key] is not None]
    for key in (key for key in present if key in saved):
        singles = flatten(present[key])
        if list(singles) == [""]:
            problems += _compare(key, singles[""], saved[key])
        elif not isinstance(saved[key], Mapping) or set(singles) != set(saved[key]):
            problems.append(f"{key}: this run has {', '.join(singles)}, the checkpoint has others")
        else:
            problems += [
                line
                for name, one in singles.items()
                for line in _compare(f"{key}.{name}", one, saved[key][name])
            ]
    return problems


def _compare(label: str, part: Any, state: Any) -> list[str]:
    if not isinstance(state, Mapping):
        return [f"{label}: the checkpoint holds a {type(state).__name__} there"]
    if isinstance(part, torch.nn.Module):
        return _compare_module(label, part, state)
    if is_optimizer(part):
        return _compare_optimizer(label, part, state)
    return []


def _compare_module(label: str, module: torch.nn.Module, state: Mapping[str, Any]) -> list[str]:
    mine = module.state_dict()
    problems = [f"{label}.{name}: not in the checkpoint" for name in mine if name not in state]
    problems += [f"{label}.{name}: not in this run's model" for name in state if name not in mine]
    for name, value in mine.items():
        if not isinstance(value, torch.Tensor) or name not in state or name.endswith(_EXTRA_STATE):
            continue  # a module's own extra state, of whatever form, or told already
        if is_lazy(value):
            continue  # it takes the shape that it is given
        problems += _compare_tensor(f"{label}.{name}", value, state[name])
    return problems


def _compare_tensor(label: str, mine: torch.Tensor, saved: Any) -> list[str]:
    if not isinstance(saved, torch.Tensor):
        return [f"{label}: a {type(saved).__name__} in the checkpoint, a tensor here"]
    if mine.shape != saved.shape:
        return [f"{label}: {tuple(saved.shape)} in the checkpoint, {tuple(mine.shape)} here"]
    if not _holds_all_of(mine.dtype, saved.dtype):
        return [f"{label}: {saved.dtype} in the checkpoint, {mine.dtype} here"]
    return []


def _holds_all_of(mine: torch.dtype, saved: torch.dtype) -> bool:
    """Tell whether a type keeps the values of another; in a narrower one it would be another run, unseen."""
    if mine == saved:
        return True
    try:
        return torch.promote_types(mine, saved) == mine
    except RuntimeError:  # types of 8 bits and less don't mix
        return mine.itemsize > saved.itemsize


def _compare_optimizer(label: str, optimizer: Any, state: Mapping[str, Any]) -> list[str]:
    saved_groups = state.get("param_groups")
    if not isinstance(saved_groups, list) or not isinstance(state.get("state"), Mapping):
        return [f"{label}: the checkpoint holds no optimizer state there"]
    mine = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group.get("params", ())) for group in saved_groups]
    if mine != saved:
        return [f"{label}: parameters per group are {saved} in the checkpoint, {mine} here"]
    return []


def _apply(
    present: Mapping[str, Any],
    saved: Mapping[str, Any],
    path: str,
    source: Source | None,
    *,
    streams: bool,
) -> None:
    finish: list[Callable[[], None]] = []
    if source is not None and streams:
        source.ready(tensors_in(saved["rng"]))
    # Whatever a user's own part raises, an interrupt too, sets back all of it.
    with contextlib.ExitStack() as undo:
        undo.callback(restore_rng, capture_rng(), path)
        label = "rng"
        try:
            if streams:
                restore_rng(saved["rng"], path)  # a first time, since it may refuse
            for label, name, part in _in_order(present, saved):
                if not only_copies(part):
                    undo.callback(_suppressed(_undo(part)))
                finish.append(load_part(part, saved[label][name] if name else saved[label], source))
            if streams:
                restore_rng(saved["rng"], path)  # and again, since parts may draw while they load
        except CheckpointInvalidError:  # it is the file, which is no mismatch
            raise
        except _REFUSALS as error:
            raise ResumeMismatchError(path=path, problem=f"{label} did not take it ({error})") from error
        undo.pop_all()
    for act in finish:
        act()


def _suppressed(act: Callable[[], None]) -> Callable[[], None]:
    def suppressed() -> None:  # the refusal to be told is the first one
        with contextlib.suppress(*_REFUSALS):
            act()

    return suppressed


def _in_order(present: Mapping[str, Any], saved: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Return each part's key, its name there and itself; those that were compared and can't refuse last."""
    single = [
        (label, name, part)
        for label in _ORDER
        if label in present and label in saved
        for name, part in flatten(present[label]).items()
    ]
    return sorted(single, key=lambda one: only_copies(one[2]))


def _undo(part: Any) -> Callable[[], None]:
    if isinstance(part, torch.nn.Module):
        return _undo_module(part)
    if is_optimizer(part):
        held = part.state_dict()  # no copy: torch replaces an optimizer's tensors when it loads others
        return lambda: load_part(part, held, None)()
    before = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(before)


def _undo_module(module: torch.nn.Module) -> Callable[[], None]:
    before = copy.deepcopy(dict(module.state_dict()))

    @torch.no_grad()
    def act() -> None:  # not by loading, which may refuse
        for name, value in module.state_dict().items():
            if isinstance(value, torch.Tensor):
                value.copy_(before[name])

    return act
