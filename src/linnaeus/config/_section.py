"""Values that are not ours: carried as they came, readable as attributes, never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, NoReturn

from pydantic import BaseModel, SecretStr

from linnaeus.config._redaction import REDACTED, is_secret_name, redact_tree, secrets_in_environment
from linnaeus.errors import ConfigError


class Section(Mapping[str, Any]):
    """A read-only mapping whose keys can be read as attributes too: `cfg.DATA.BATCH_SIZE`.

    Nested mappings are sections as well. A key that is missing is an error as an attribute and has a
    default with `get`. A key with the name of a method, such as `items`, is read with `[...]`.
    """

    __slots__ = ("_path", "_values")
    _path: str
    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, object] | None = None, *, path: str = "") -> None:
        object.__setattr__(self, "_path", path)
        wrapped = {key: wrap(value, join(path, key)) for key, value in (values or {}).items()}
        object.__setattr__(self, "_values", wrapped)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Section.__slots__:
            raise AttributeError(name)  # a copy in the making asks for these before it has any values
        if name not in self._values:
            raise missing_key(name, self._path, self._values)
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a config is read-only: {join(self._path, name)} can't be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a config is read-only: {join(self._path, name)} can't be deleted")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self._values if isinstance(key, str))]

    def __repr__(self) -> str:
        secret = any(map(is_secret_name, self._path.split(".")))
        return f"Section({redact_tree(plain(self), secrets_in_environment(), secret=secret)!r})"

    def __reduce__(self) -> tuple[Callable[..., Section], tuple[dict[str, Any], str]]:
        return _section, (self._values, self._path)


def _section(values: dict[str, Any], path: str) -> Section:
    return Section(values, path=path)


def join(path: str, key: object) -> str:
    """Return the dotted name of a key below a section."""
    return f"{path}.{key}" if path else str(key)


def missing_key(name: str, path: str, known: Iterable[object]) -> AttributeError:
    """Return the error for an attribute that is no key of a section, naming the nearest one."""
    nearest = get_close_matches(name, [key for key in known if isinstance(key, str)], n=1)
    hint = f"; did you mean {join(path, nearest[0])}?" if nearest else ""
    return AttributeError(f"the config has no {join(path, name)}{hint}", name=name)


def wrap(value: object, path: str = "") -> Any:
    """Return the value with every mapping in it as a `Section` and every list copied."""
    if isinstance(value, Mapping):
        return Section(value, path=path)
    if isinstance(value, list):
        return [wrap(item, path) for item in value]
    if isinstance(value, tuple):
        return tuple(wrap(item, path) for item in value)
    return value


def own_copy(value: object, path: str = "") -> Any:
    """Return a copy of a tree of plain values that shares no dict or list with the original.

    Raises:
        ConfigError: A value in it is of a kind that no YAML file could hold.
    """
    if isinstance(value, Mapping):
        return {key: own_copy(item, join(path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [own_copy(item, path) for item in value]
    if isinstance(value, tuple):
        return tuple(own_copy(item, path) for item in value)
    if value is None or isinstance(value, str | int | float | PurePath | date | SecretStr):
        return value
    expected = f"should be text, a number, true, false, null, a list or a section, not {type(value).__name__}"
    raise ConfigError(field=path, expected=expected)


def plain(value: object) -> Any:
    """Return a config value as what YAML and JSON can hold; typed secrets are redacted."""
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, SecretStr):
        return REDACTED
    if isinstance(value, date):
        return value.isoformat()
    return _scalar(value)


def _scalar(value: object) -> object:
    """Return a number or text without the subclass that it may have, such as NumPy's."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)
