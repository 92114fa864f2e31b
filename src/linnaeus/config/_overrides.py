"""Overrides: `TRAIN.EPOCHS=3`, as given with `--set`, applied in their order."""

from __future__ import annotations

from typing import Any

from linnaeus.config import _older
from linnaeus.config._reading import OVERRIDE, parse_yaml
from linnaeus.config._tree import KeyPath, Tree, assign, dotted, has, value_at
from linnaeus.errors import ConfigError


def apply_override(tree: Tree, override: str) -> tuple[list[KeyPath], list[tuple[KeyPath, KeyPath]]]:
    """Set the value that one override gives, which may be in an older spelling.

    Args:
        tree: The config's values, in today's spelling; changed in place.
        override: `KEY=VALUE`, with the key's sections separated by dots, and the value in YAML.

    Returns:
        The paths that were set, and the older and present path of each key that was renamed.

    Raises:
        ConfigError: The override is no `KEY=VALUE`, or can't be set in this config.
    """
    path, value = _parsed(override)
    own: Tree = {}
    assign(own, path, value)
    renamed = _older.translate(own)
    targets = [target for target in (path, *(new for _, new in renamed)) if has(own, target)]
    for target in targets:
        blocked = assign(tree, target, value_at(own, target))
        if blocked is not None:
            expected = f"is not a section, so {dotted(target)} can't be set in it"
            raise ConfigError(field=dotted(blocked), expected=expected, source=OVERRIDE)
    return targets, renamed


def _parsed(override: str) -> tuple[KeyPath, Any]:
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        # what follows the key is not shown: it may be a secret
        field = key.split(":")[0].split()[0] if key.split(":")[0].split() else "override"
        raise ConfigError(field=field, expected="should be given as SECTION.KEY=VALUE", source=OVERRIDE)
    value = parse_yaml(text, OVERRIDE, field=key).value
    # YAML takes ":local:" for a mapping; in an override, a mapping is written in braces.
    is_text = isinstance(value, dict) and "\n" not in text and not text.lstrip().startswith("{")
    return path, text.strip() if is_text else value
