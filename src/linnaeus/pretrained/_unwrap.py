"""Find the tensors in what people publish, and the prefixes that wrappers put before their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from linnaeus.errors import IncompatibleWeightsError

# Where weights are kept in a file, in the order of preference: the trained ones before their average.
CONTAINERS = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "net",
    "state_dict_ema",
    "model_ema",
    "ema",
)
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.")
MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The tensors of a file.

    Attributes:
        tensors: By the names they have there.
        container: The key, or dotted keys, that they were found under; empty for a bare state dict.
        others: Other keys under which there are weights too, not taken.
    """

    tensors: Mapping[str, Tensor]
    container: str
    others: tuple[str, ...]


def unwrap(loaded: object, path: str) -> Unwrapped:
    """Find the state dict in a loaded file.

    Args:
        loaded: What the file holds.
        path: The file, for errors.

    Raises:
        IncompatibleWeightsError: There is none; the details list what there is instead.
    """
    keys: list[str] = []
    others: list[str] = []
    node = loaded
    for _ in range(MAX_DEPTH):
        inside = [
            key for key in CONTAINERS if isinstance(node, Mapping) and isinstance(node.get(key), Mapping)
        ]
        if not inside or not isinstance(node, Mapping):
            break
        others += [".".join([*keys, key]) for key in inside[1:]]
        keys.append(inside[0])
        node = node[inside[0]]
    tensors = _tensors(node)
    if not tensors:
        raise _no_weights(node, path, ".".join(keys))
    return Unwrapped(tensors, ".".join(keys), tuple(others))


def _tensors(node: object) -> dict[str, Tensor]:
    if not isinstance(node, Mapping):
        return {}
    return {
        name: value for name, value in node.items() if isinstance(name, str) and isinstance(value, Tensor)
    }


def _no_weights(node: object, path: str, container: str) -> IncompatibleWeightsError:
    found = (
        [f"{key}: {type(value).__name__}" for key, value in node.items()] if isinstance(node, Mapping) else []
    )
    where = f" under {container!r}" if container else ""
    return IncompatibleWeightsError(
        path=path,
        problem=f"holds no weights{where}",
        advice=f"Looked for tensors, and for a dict of them under {', '.join(CONTAINERS)}.",
        details=found[:12] or [f"a {type(node).__name__}"],
    )


def prefix_chains(names: Iterable[str], prefixes: tuple[str, ...] = PREFIXES) -> Iterator[tuple[str, ...]]:
    """Yield the chains of prefixes that could be stripped from these names, shortest first.

    A chain is stripped prefix by prefix; at each step at least one name begins with it. The empty chain
    is the first.
    """
    level: list[tuple[tuple[str, ...], frozenset[str]]] = [((), frozenset(names))]
    for _ in range(MAX_DEPTH + 1):
        yield from (chain for chain, _ in level)
        level = [
            ((*chain, prefix), frozenset(strip(name, (prefix,)) for name in left))
            for chain, left in level
            for prefix in prefixes
            if any(name.startswith(prefix) for name in left)
        ]


def strip(name: str, chain: tuple[str, ...]) -> str:
    """Return the name without a chain of prefixes, each where it has it."""
    for prefix in chain:
        name = name.removeprefix(prefix)
    return name


def stripped(tensors: Mapping[str, Tensor], chain: tuple[str, ...]) -> dict[str, str]:
    """Return the names without a chain of prefixes, each with the name it had.

    Of two names that become one, the one that had the prefixes stays.
    """
    found: dict[str, str] = {}
    for name in tensors:
        plain = strip(name, chain)
        if len(name) > len(found.get(plain, "")):
            found[plain] = name
    return found
