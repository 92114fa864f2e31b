"""Decide what of each source goes where in a model, before anything is touched.

A tensor of the model is filled by one source at most. What can't be decided is a conflict, and a plan
with conflicts is never carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from linnaeus.pretrained._adapters import rotary_base
from linnaeus.pretrained._fit import Fit, Fitted
from linnaeus.pretrained._lost import lost_norms, lost_positions, lost_scales, unmeasured
from linnaeus.pretrained._report import Mismatch
from linnaeus.pretrained._reshape import BIAS_TABLE, UnresizableError, reshaped
from linnaeus.pretrained._targets import Target, Wishes
from linnaeus.pretrained._weights import Weight

NOT_CLAIMED = "the recipe takes nothing of this from it"
NO_PLACE = "no such name in the model"


@dataclass(frozen=True, slots=True)
class Width:
    """A width: the size of one dimension of one tensor of a source, under its name after the rules."""

    name: str
    dim: int


Joint = Mapping[str, Width]
"""By source, widths that must be the same."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One tensor to copy: `name` is the model's, without prefixes of wrappers."""

    name: str
    target: Target
    weight: Weight
    source: str


@dataclass(slots=True)
class Plan:
    """What to copy, what can't be, and why.

    Attributes:
        copies: What to copy, by the first name of the model's tensor.
        mismatches: What has a place of another shape or kind.
        left: Why a tensor is not used, by source and by its name there.
        conflicts: Why nothing may be loaded at all, one line each.
        seams: Why the sources do not make one model: claimed twice, or widths that do not meet.
    """

    copies: dict[str, Copy] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    seams: list[str] = field(default_factory=list)


def plan(fit: Fit, wishes: Wishes, joints: Sequence[Joint]) -> Plan:
    """Decide what goes where.

    Args:
        fit: The sources under the model's names.
        wishes: What the model says of loading.
        joints: The widths that must be the same, by source.

    Returns:
        The plan, with its conflicts.
    """
    made = Plan()
    for fitted in fit.fitted:
        made.left[fitted.source.name] = dict(fitted.offer.left)
        made.conflicts += fitted.offer.conflicts
        for name, weight in fitted.offer.weights.items():
            _place(made, fit, fitted, name, weight, wishes)
    for joint in joints:
        made.seams += _open_joint(fit.fitted, joint)
    made.conflicts += _changed_constants(made.copies.values())
    for fitted in fit.fitted:
        made.conflicts += _lost(made, fit, fitted)
    wanted = [name for name in fit.view if not name.startswith(wishes.dropped)]
    made.conflicts += unmeasured(wanted, {copy.name for copy in made.copies.values()})
    return made


def _place(made: Plan, fit: Fit, fitted: Fitted, name: str, weight: Weight, wishes: Wishes) -> None:
    source, target = fitted.source.name, fit.view.get(name)
    may_fill = fitted.source.may_fill(name) or weight.rows is not None  # mapped by class: asked for
    if target is None or not may_fill:
        reason = NO_PLACE if may_fill else NOT_CLAIMED
        made.left[source].update(dict.fromkeys(weight.origins, reason))
        return
    fitting = _fitting(name, weight, target, fitted, wishes)
    if isinstance(fitting, Mismatch):
        made.mismatches.append(fitting)
    elif target.name in made.copies:
        _claim_again(made, made.copies[target.name], fitting, source)
    else:
        made.copies[target.name] = Copy(name, target, fitting, source)


def _fitting(name: str, weight: Weight, target: Target, fitted: Fitted, wishes: Wishes) -> Weight | Mismatch:
    """Return the weight in the model's shape, or what does not fit, with the reason where there is one."""
    if _kind(weight.dtype) != _kind(target.tensor.dtype):
        return _mismatch(target, weight, fitted.source.name)
    if weight.shape == target.shape:
        return weight
    if name.endswith(BIAS_TABLE) and wishes.resize_rel_pos_bias is False:
        return _mismatch(target, weight, fitted.source.name, "the model asks for no resampling")
    try:
        made = reshaped(name, weight, target, fitted.offer.weights)
    except UnresizableError as error:
        return _mismatch(target, weight, fitted.source.name, str(error))
    if made is None or made.shape != target.shape:
        return _mismatch(target, weight, fitted.source.name)
    return made


def _kind(dtype: torch.dtype) -> str:
    """Return what may be cast to one another: quantized numbers without scales would be other weights."""
    if dtype.is_complex:
        return "complex"
    if dtype.is_floating_point and dtype.itemsize < 2:
        return f"{dtype}, which goes with scales"
    return "floating" if dtype.is_floating_point else "whole"


def _mismatch(target: Target, weight: Weight, source: str, why: str | None = None) -> Mismatch:
    return Mismatch(
        name=target.name,
        source=source,
        origins=weight.origins,
        shape=target.shape,
        dtype=_dtype(target.tensor.dtype),
        source_shape=weight.shape,
        source_dtype=_dtype(weight.dtype),
        why=why,
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _claim_again(made: Plan, first: Copy, weight: Weight, source: str) -> None:
    """Take a second claim for a conflict, unless it is one shared tensor that was saved under two names."""
    name = first.target.name
    origins = first.weight.origins
    if first.source == source and _same(first.weight.read(), weight.read()):
        both = replace(first.weight, origins=tuple(dict.fromkeys((*origins, *weight.origins))))
        made.copies[name] = replace(first, weight=both)
        return
    one, other = (", ".join(claim) or "a rule" for claim in (origins, weight.origins))
    made.seams.append(f"{name} is claimed twice: by {one} of {first.source} and by {other} of {source}")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are the same; where values are not known, they may be."""
    return one.is_meta or other.is_meta or torch.equal(one, other)


def _open_joint(fitted: Iterable[Fitted], joint: Joint) -> Iterator[str]:
    widths = {}
    for one in fitted:
        place = joint.get(one.source.name)
        weight = one.offer.weights.get(place.name) if place else None
        if place and weight is not None and place.dim < len(weight.shape):
            origin = weight.origins[0] if weight.origins else place.name
            widths[one.source.name] = (weight.shape[place.dim], origin)
    if len({width for width, _ in widths.values()}) > 1:
        sides = (f"{source} is {width} wide ({name})" for source, (width, name) in widths.items())
        yield f"the sources do not meet: {', '.join(sides)}"


def _changed_constants(copies: Iterable[Copy]) -> Iterator[str]:
    for copy in copies:
        if copy.weight.constant and not copy.target.is_parameter and not _agrees(copy):
            ours, theirs = rotary_base(copy.target.tensor), rotary_base(copy.weight.read())
            yield (
                f"{copy.target.name}: the model's {copy.weight.constant} are constants{_base(ours)},"
                f" but the source's are others{_base(theirs)}"
            )


def _agrees(copy: Copy) -> bool:
    ours, theirs = copy.target.tensor, copy.weight.read()
    if ours.is_meta or theirs.is_meta:  # values are not known
        return True
    rtol = max(torch.finfo(ours.dtype).eps, 1e-5) * 4
    return torch.allclose(
        ours.to("cpu", torch.float64), theirs.to("cpu", torch.float64), rtol=rtol, atol=1e-6
    )


def _base(base: float | None) -> str:
    return f" of base {base:g}" if base else ""


def _lost(made: Plan, fit: Fit, fitted: Fitted) -> Iterator[str]:
    source, offered = fitted.source, fitted.offer.weights.items()
    tensors = source.unwrapped.tensors
    unplaced = {origin for name, weight in offered if name not in fit.view for origin in weight.origins}
    if unplaced:
        used = {o for c in made.copies.values() if c.source == source.name for o in c.weight.origins}
        for look in (lost_norms, lost_scales, lost_positions):
            yield from look(tensors, used, unplaced)
