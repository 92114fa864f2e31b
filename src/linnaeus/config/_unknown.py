"""Unknown keys in our sections: a misspelt key must not be ignored, so it is an error.

In a section that is ours altogether, every unknown key is one. In a section that we share with the
rest of a framework, only a key that can hardly be meant for anyone else is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from functools import cache

from linnaeus.config._schema import ClosedSection, ModelConfig, OpenSection, TrainConfig
from linnaeus.config._tree import KeyPath, Tree, dotted
from linnaeus.errors import ConfigError

_LOOKS_LIKE = 0.8  # one wrong character in six, the length of our shortest claimed key, is 0.83
_SAME_SECTION_BONUS = 0.1
_WORTH_NAMING = 0.5


def refuse_unknown(tree: Mapping[str, object], model: type[ClosedSection], root: type[ClosedSection]) -> None:
    """Raise for the first key that is misspelt in a section that is ours.

    Args:
        tree: The values of the section.
        model: What the section may hold.
        root: The section whose keys are suggested in place of an unknown one; `tree` is its value.

    Raises:
        ConfigError: The key, with the nearest known key.
    """
    _refuse(tree, model, (), tuple(known_keys(root)))


def _refuse(
    tree: Mapping[str, object], model: type[ClosedSection], at: KeyPath, known: tuple[KeyPath, ...]
) -> None:
    for key, value in tree.items():
        inner = section_model(model, key)
        if key not in model.model_fields:
            if _is_mistake(str(key), model):
                raise _unknown(str(key), at, known)
        elif inner is not None and isinstance(value, Mapping):
            _refuse(value, inner, (*at, key), known)


def section_model(model: type[ClosedSection], key: str) -> type[ClosedSection] | None:
    """Return the model of the section that a key holds, or None when it holds a value."""
    field = model.model_fields.get(key)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, ClosedSection) else None


@cache
def known_keys(model: type[ClosedSection]) -> Mapping[KeyPath, None]:
    """Return the paths of all keys of a section, its own first."""
    return dict.fromkeys(_known(model, ()))


def _known(model: type[ClosedSection], at: KeyPath) -> Iterator[KeyPath]:
    for key in model.model_fields:
        yield (*at, key)
        if (inner := section_model(model, key)) is not None:
            yield from _known(inner, (*at, key))


def _is_mistake(key: str, model: type[ClosedSection]) -> bool:
    if not issubclass(model, OpenSection):
        return True
    upper = key.upper()
    if model in (ModelConfig, TrainConfig) and ("RESUME" in upper or upper.startswith("PRETRAINED")):
        return True
    return upper in model.model_fields or any(_likeness(key, ours) >= _LOOKS_LIKE for ours in model.claimed)


def _likeness(key: str, known: str) -> float:
    return SequenceMatcher(None, key.upper(), known, autojunk=False).ratio()


def _unknown(key: str, at: KeyPath, known: tuple[KeyPath, ...]) -> ConfigError:
    def score(path: KeyPath) -> float:
        return _likeness(key, path[-1]) + (_SAME_SECTION_BONUS if path[:-1] == at else 0)

    nearest = max(known, key=score)
    here = ", ".join(path[-1] for path in known if path[:-1] == at)
    # a key that goes on after its name, such as `KEY:value` without a space, may hold a secret
    name = re.match(r"[\w.-]*", key)[0]  # type: ignore[index]  # it matches the empty text too
    return ConfigError(
        field=dotted((*at, name if name == key else f"{name}…")),
        expected=f"is not a known key; known here: {here}",
        nearest=dotted(nearest) if score(nearest) >= _WORTH_NAMING else None,
    )


def without_nulls(tree: Tree, model: type[ClosedSection]) -> Tree:
    """Return the values without those of our keys that are null: these take their defaults."""
    cleaned = dict(tree)
    for key, value in tree.items():
        inner = section_model(model, key)
        if key in model.model_fields and value is None:
            del cleaned[key]
        elif inner is not None and isinstance(value, dict):
            cleaned[key] = without_nulls(value, inner)
    return cleaned
