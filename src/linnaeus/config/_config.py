"""The whole config, and the way to it: read, override, translate, check, fill in, validate."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError

from linnaeus.config import _older, _overrides
from linnaeus.config._defaults import fill_in
from linnaeus.config._problems import config_error, sanitise
from linnaeus.config._reading import OVERRIDE, Document, read_config_file
from linnaeus.config._redaction import redact_tree, secrets_in_environment
from linnaeus.config._schema import EnvConfig, ModelConfig, OpenSection, ScheduleConfig, TrainConfig
from linnaeus.config._section import Section, own_copy, plain
from linnaeus.config._tree import KeyPath, dotted
from linnaeus.config._unknown import refuse_unknown, without_nulls
from linnaeus.errors import ConfigError

LOCK_NAME = "linnaeus.lock"

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(OpenSection):
    """A frozen config: our sections typed, those of others passed through.

    A section that the config does not have reads as an empty one, so that `cfg.DATA.get("SIZE", 32)`
    works without it.
    """

    ENV: EnvConfig = Field(default_factory=EnvConfig)
    MODEL: ModelConfig = ModelConfig()
    TRAIN: TrainConfig = TrainConfig()
    SCHEDULE: ScheduleConfig = ScheduleConfig()

    def __getattr__(self, name: str) -> Any:
        if name not in self._extra() and re.fullmatch("[A-Z][A-Z0-9_]*", name):
            return Section(path=name)
        return super().__getattr__(name)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self.to_plain().items()

    @classmethod
    def from_plain(cls, values: Mapping[str, object]) -> Self:
        """Make a config from nested mappings of plain values.

        Args:
            values: What a config file would hold; older spellings are understood.

        Raises:
            ConfigError: A value or a key of our sections is wrong.
        """
        config, notes = _built(cls, Document(values, ""), ())
        _warn(notes)
        return config

    def to_plain(self) -> dict[str, object]:
        """Return the config as nested dicts of plain values, with every secret redacted.

        Returns:
            Dicts, lists, texts, numbers, booleans and None only, fit for YAML, JSON and checkpoints.
            Read again with `from_plain`, it gives an equal config, but for the secrets.
        """
        plainly: dict[str, object] = redact_tree(plain(self), _secrets(self))
        return plainly

    def digest(self) -> str:
        """Return the SHA-256 of the config's canonical JSON, secrets redacted, in hexadecimal."""
        canonical = json.dumps(_text_keys(self.to_plain()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply overrides to it.

    Args:
        path: A YAML file; None means that everything has its default.
        overrides: `SECTION.KEY=VALUE` each, with the value in YAML; a later one wins.

    Returns:
        The config, frozen, with every default and directory filled in.

    Raises:
        ConfigError: The file can't be read, or a value or a key of our sections is wrong.
    """
    document = Document({}, "") if path is None else read_config_file(path)
    config, notes = _built(Config, document, overrides)
    _warn(notes)
    return config if path is None else _with_lock(config, Path(path).with_name(LOCK_NAME))


def _with_lock(config: Config, lock: Path) -> Config:
    """Hold the names of a config to the lock file beside it, if there is one."""
    if config.ENV.INPUT.LOCK is not None or not lock.is_file():
        return config
    place = config.ENV.INPUT.model_copy(update={"LOCK": lock})
    return config.model_copy(update={"ENV": config.ENV.model_copy(update={"INPUT": place})})


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note, _older.LinnaeusDeprecationWarning, stacklevel=3)


def _built(kind: type[ConfigT], document: Document, overrides: Sequence[str]) -> tuple[ConfigT, list[str]]:
    renamed: list[tuple[KeyPath, KeyPath]] = []
    overridden: list[KeyPath] = []
    try:
        tree = own_copy(document.value)
        if not isinstance(tree, dict):
            raise ConfigError(field="config", expected="should be sections with keys")
        renamed += _older.translate(tree)
        for override in overrides:
            paths, again = _overrides.apply_override(tree, override)
            overridden += paths
            renamed += again
        return _validated(kind, tree), _older.notes(renamed, tree)
    except ConfigError as error:
        sanitise(error, _source_of(error.field, document, overridden, renamed))
        raise


def _validated(kind: type[ConfigT], tree: dict[str, Any]) -> ConfigT:
    refuse_unknown(tree, kind, kind)
    tree = without_nulls(tree, kind)
    fill_in(tree)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        # without the cause: pydantic's error keeps the values, secrets included
        raise config_error(error) from None


def _source_of(
    field: str, document: Document, overridden: list[KeyPath], renamed: list[tuple[KeyPath, KeyPath]]
) -> str | None:
    """Return where the wrong value was given: an override, or a line of the file."""
    for path in map(dotted, overridden):
        if field == path or field.startswith(f"{path}.") or path.startswith(f"{field}."):
            return OVERRIDE
    older = {dotted(new): dotted(old) for old, new in renamed}
    return document.place(older.get(field, field)) or None


def _secrets(config: Config) -> tuple[str, ...]:
    buckets = (config.ENV.INPUT.BUCKET, config.ENV.OUTPUT.BUCKET)
    keys = [key for bucket in buckets for key in (bucket.APP_KEY_ID, bucket.APP_KEY) if key is not None]
    return (*secrets_in_environment(), *(key.get_secret_value() for key in keys))


def _text_keys(value: object) -> object:
    """Return the value with the keys of its dicts as text, which JSON demands and can sort."""
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value
