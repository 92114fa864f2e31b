"""The model's side: its tensors by name, which of them are heads, and what it wishes of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linnaeus.errors import ConfigError, IncompatibleWeightsError
from linnaeus.pretrained._weights import Shape

HEADS = ("head.", "heads.", "classifier.", "fc.")
HOOK = "pretrained_ckpt_handling_metadata"
_WRAPPERS = ("module", "_orig_mod")
_EXTRA_STATE = "_extra_state"  # torch: what a module returns of its own making


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of a model.

    Attributes:
        name: Its first name in the model's state dict.
        tensor: The parameter or buffer itself.
        is_parameter: False for a buffer.
        owners: The module that holds it, and the modules around that, from the innermost on.
    """

    name: str
    tensor: Tensor
    is_parameter: bool
    owners: tuple[nn.Module, ...] = field(default=(), repr=False, compare=False)

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True, slots=True)
class Targets:
    """All tensors of a model, each once; `names` also has the further names of shared ones."""

    first: tuple[Target, ...]
    names: Mapping[str, Target]


def targets_of(model: nn.Module) -> Targets:
    """Return a model's tensors: those of its state dict.

    Raises:
        IncompatibleWeightsError: A lazy module has no shapes yet, or the state dict has copies: to fill
            those would change nothing.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    own = parameters | {id(buffer) for buffer in model.buffers()}
    modules = dict(model.named_modules(remove_duplicate=False))
    by_id: dict[int, Target] = {}
    names: dict[str, Target] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            raise _no_memory(name, "it belongs to a lazy module that has not run yet")
        if isinstance(tensor, Tensor) and not name.endswith(_EXTRA_STATE):
            if id(tensor) not in own:
                raise _no_memory(name, "its state dict has only a copy of it, as that of a sharding wrapper")
            if id(tensor) not in by_id:
                is_parameter = id(tensor) in parameters
                by_id[id(tensor)] = Target(name, tensor, is_parameter, _owners(name, modules))
            names[name] = by_id[id(tensor)]
    return Targets(tuple(by_id.values()), names)


def _owners(name: str, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, ...]:
    owners = []
    while name:
        name = name.rpartition(".")[0]
        if name in modules:
            owners.append(modules[name])
    return tuple(owners)


def require_memory(targets: Targets) -> None:
    """Refuse a model on the meta device: copying into it would do nothing, without a word.

    Raises:
        IncompatibleWeightsError: A tensor of the model has no memory.
    """
    for target in targets.first:
        if target.tensor.is_meta:
            raise _no_memory(target.name, "it is on the meta device")
        if any(placement.is_partial() for placement in getattr(target.tensor, "placements", ())):
            raise _no_memory(target.name, "each rank has a summand of it, not a part")


def _no_memory(name: str, why: str) -> IncompatibleWeightsError:
    return IncompatibleWeightsError(
        path="a pretrained checkpoint",
        problem=f"the model's {name} can't take weights: {why}",
        advice="Load before wrapping; give a model memory with Module.to_empty, a lazy one by running it.",
    )


def head_names(targets: Targets, chain_free: Mapping[str, Target]) -> frozenset[str]:
    """Return the first names of what is a classification head; none where the model is nothing but heads.

    Args:
        targets: The model's tensors.
        chain_free: The same by their names without wrappers' prefixes.
    """
    heads = {target.name for name, target in chain_free.items() if name.startswith(HEADS)}
    return frozenset(heads) if len(heads) < len(targets.first) else frozenset()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a model says of loading foreign weights, in its `pretrained_ckpt_handling_metadata`.

    Attributes:
        dropped: Prefixes of source names that are not to be loaded; a prefix is a prefix.
        resize_rel_pos_bias: Whether relative position tables of another size are resampled.
        module_prefix: Whether a leading `module.` is stripped.
        strict: Whether everything must match, heads too.
    """

    dropped: tuple[str, ...] = ()
    resize_rel_pos_bias: bool = True
    module_prefix: bool = True
    strict: bool = False


def wishes_of(model: nn.Module) -> Wishes:
    """Return what a model, or the model inside wrappers, says of loading foreign weights.

    Raises:
        ConfigError: Its metadata is no mapping, or a list of prefixes is none.
    """
    hook = _hook(model)
    if hook is None:
        return Wishes()
    if not isinstance(hook, Mapping):
        raise ConfigError(field=f"{type(model).__name__}.{HOOK}", expected="a mapping", value=hook)
    return Wishes(
        dropped=(*_prefixes(hook, "drop_buffers"), *_prefixes(hook, "drop_params")),
        resize_rel_pos_bias=bool(hook.get("interpolate_rel_pos_bias", True)),
        module_prefix=bool(hook.get("supports_module_prefix", True)),
        strict=bool(hook.get("strict", False)),
    )


def _hook(model: nn.Module) -> Any:
    inner: Any = model
    while inner is not None and not hasattr(inner, HOOK):
        inner = next((getattr(inner, name) for name in _WRAPPERS if hasattr(inner, name)), None)
    return getattr(inner, HOOK, None)


def _prefixes(hook: Mapping[str, Any], key: str) -> tuple[str, ...]:
    prefixes = hook.get(key) or ()
    if isinstance(prefixes, str) or not all(isinstance(prefix, str) and prefix for prefix in prefixes):
        raise ConfigError(field=f"{HOOK}.{key}", expected="a list of prefixes of names", value=prefixes)
    return tuple(prefixes)
