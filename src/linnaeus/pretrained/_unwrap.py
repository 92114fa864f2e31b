"""Find the tensors in what people publish, and the prefixes that wrappers put before their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from linnaeus.errors import ConfigError, IncompatibleWeightsError
from linnaeus.pth import StoredTensor

# Where weights are kept in a file, in the order of preference: the trained ones before their average.
AVERAGED = ("state_dict_ema", "model_ema", "ema")
CONTAINERS = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "net",
    *AVERAGED,
    "teacher",
    "student",
)
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.")
MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The tensors of a file.

    Attributes:
        tensors: By the names they have there; `StoredTensor`s where the file was only sketched.
        container: The key, or dotted keys, that they were found under; empty for a bare state dict.
        others: Other keys under which there are weights too, not taken.
    """

    tensors: Mapping[str, Any]
    container: str
    others: tuple[str, ...]


def unwrap(loaded: object, path: str, *, averaged: bool = False, container: str | None = None) -> Unwrapped:
    """Find the state dict in a loaded file.

    Args:
        loaded: What the file holds; tensors may be in memory or still in the file.
        path: The file, for errors.
        averaged: Take the averaged weights (EMA), which must be there.
        container: Take the weights under this key, or dotted keys, instead of those found first.

    Raises:
        IncompatibleWeightsError: There are none; the details list what there is instead.
        ConfigError: Both an average and a container were asked for.
    """
    if averaged and container:
        raise ConfigError(
            field="MODEL.PRETRAINED_EMA", expected="PRETRAINED_CONTAINER is set; give one of them"
        )
    start, keys = _named(loaded, path, container) if container else (loaded, [])
    others: list[str] = []
    node: object = start
    wanted = averaged
    for _ in range(MAX_DEPTH):
        inside = _containers(node)
        if not inside or not isinstance(node, Mapping):
            break
        chosen = next((key for key in inside if key in AVERAGED), inside[0]) if wanted else inside[0]
        wanted = wanted and chosen not in AVERAGED
        others += [".".join([*keys, key]) for key in inside if key != chosen]
        keys.append(chosen)
        node = node[chosen]
    tensors = _tensors(node)
    if not tensors:
        raise _no_weights(node, path, ".".join(keys))
    if wanted:
        raise _no_average(path, ".".join(keys))
    return Unwrapped(tensors, ".".join(keys), tuple(others))


def _containers(node: object) -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for key in CONTAINERS if isinstance(node.get(key), Mapping)]


def _named(loaded: object, path: str, container: str) -> tuple[object, list[str]]:
    node = loaded
    for key in container.split("."):
        if not isinstance(node, Mapping) or not isinstance(node.get(key), Mapping):
            raise _no_weights(node, path, container)
        node = node[key]
    return node, container.split(".")


def _tensors(node: object) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {}
    return {
        name: value
        for name, value in node.items()
        if isinstance(name, str) and isinstance(value, (Tensor, StoredTensor))
    }


def _no_weights(node: object, path: str, container: str) -> IncompatibleWeightsError:
    found = (
        [f"{key}: {type(value).__name__}" for key, value in node.items()] if isinstance(node, Mapping) else []
    )
    where = f" under {container!r}" if container else ""
    return IncompatibleWeightsError(
        path=path,
        problem=f"holds no weights{where}",
        advice=f"Looked for tensors, and for a dict of them under {', '.join(CONTAINERS)};"
        " MODEL.PRETRAINED_CONTAINER names another key.",
        details=found[:12] or [f"a {type(node).__name__}"],
    )


def _no_average(path: str, container: str) -> IncompatibleWeightsError:
    found = f"only those under {container!r}" if container else "only bare ones"
    return IncompatibleWeightsError(
        path=path,
        problem=f"holds no averaged weights, {found}",
        advice=f"Averages are looked for under {', '.join(AVERAGED)}. Without MODEL.PRETRAINED_EMA the others"
        " are loaded.",
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


def stripped(tensors: Iterable[str], chain: tuple[str, ...]) -> dict[str, str]:
    """Return the names without a chain of prefixes, each with the name it had.

    Of two names that become one, the one that had the prefixes stays.
    """
    found: dict[str, str] = {}
    for name in tensors:
        plain = strip(name, chain)
        if len(name) > len(found.get(plain, "")):
            found[plain] = name
    return found
