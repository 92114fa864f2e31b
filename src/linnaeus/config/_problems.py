"""What pydantic finds becomes a `ConfigError`, in our words and without secrets."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from linnaeus.config._redaction import is_secret_name, redact, redact_tree, secrets_in_environment
from linnaeus.config._section import plain
from linnaeus.config._tree import dotted
from linnaeus.errors import ConfigError

_MAX_SHOWN_CHARACTERS = 80
_EXPECTED = {
    "model_type": "should be a section with keys of its own",
    "string_type": "should be text (put a number in quotes)",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
    "path_type": "should be the path of a directory",
    "string_too_short": "should not be empty",
    "extra_forbidden": "is not a known key",
    "invalid_key": "should have text for a key (put it in quotes)",
}


def config_error(error: ValidationError, prefix: tuple[str, ...] = ()) -> ConfigError:
    """Return the first problem that pydantic found, naming the fields of the others.

    Args:
        error: What pydantic raised.
        prefix: The path of the section that was validated.
    """
    first, *others = error.errors(include_url=False)
    path = (*prefix, *first["loc"])
    also = ", ".join(dotted((*prefix, *other["loc"])) for other in others)
    expected = _expected(first) + (f"; wrong too: {also}" if also else "")
    # a text in place of a section may be a broken line of YAML, with a secret in it that nothing marks
    value = None if first["type"] == "model_type" else shown(first["input"], path)
    return ConfigError(field=dotted(path), expected=expected, value=value)


def _expected(problem: ErrorDetails) -> str:
    said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return _EXPECTED.get(problem["type"], said)


def shown(value: object, path: tuple[object, ...]) -> object:
    """Return a value as an error may show it: plain, without secrets, and not too long."""
    secret = any(is_secret_name(str(key)) for key in path)
    if secret and value is not None:
        return "***"
    safe: Any = redact_tree(plain(value), secrets_in_environment())
    text = repr(safe)
    return safe if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"


def sanitise(error: ConfigError, source: str | None) -> None:
    """Give an error its source, if it has none yet, and take credentials of the environment out of it."""
    secrets = secrets_in_environment()
    error.source = error.source or source
    error.field = redact(error.field, secrets)
    error.value = shown(error.value, tuple(error.field.split(".")))
