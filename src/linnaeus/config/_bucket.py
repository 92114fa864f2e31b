"""Bucket configurations from elsewhere: other config libraries, other spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pydantic import ValidationError

from linnaeus.config._problems import config_error
from linnaeus.config._schema import BucketConfig
from linnaeus.config._unknown import without_nulls
from linnaeus.errors import ConfigError

_OLDER_NAME = "BUCKET"
_KEYS = (*BucketConfig.model_fields, _OLDER_NAME)
_FIELD = "bucket_config"


def bucket_config_from(obj: object) -> BucketConfig:
    """Make a bucket configuration from whatever has its keys.

    Args:
        obj: A `BucketConfig`; or anything with the keys as attributes or items (a dict, a yacs node, a
            namespace), in today's spelling or the older one, which has `BUCKET` for `NAME`; or
            None, which means no bucket. Keys that are missing have their defaults.

    Raises:
        ConfigError: It is no bucket configuration, or a value in it is wrong.
    """
    if isinstance(obj, BucketConfig):
        return obj
    if obj is None:
        return BucketConfig()
    values = without_nulls(_values(obj), BucketConfig)
    try:
        return BucketConfig.model_validate(values)
    except ValidationError as error:
        # without the cause: pydantic's error keeps the values, secrets included
        raise config_error(error, (_FIELD,)) from None


def _values(obj: object) -> dict[str, object]:
    if isinstance(obj, Mapping):
        given = [str(key) for key in obj]
        values = {key: obj[key] for key in _KEYS if key in obj}
    else:
        given = [key for key in getattr(obj, "__dict__", ()) if key.isupper()]
        values = {key: getattr(obj, key) for key in _KEYS if hasattr(obj, key)}
    _refuse_misspelt(given)
    if not values and not (isinstance(obj, Mapping) and not obj):
        expected = f"should have {', '.join(_KEYS[:3])} as attributes or items, but is a {type(obj).__name__}"
        raise ConfigError(field=_FIELD, expected=expected)
    return _renamed(values)


def _refuse_misspelt(given: Sequence[str]) -> None:
    """Refuse keys that are nearly ours; others may have a meaning to somebody else."""
    for key in given:
        nearest = None if key in _KEYS else _nearest(key.upper())
        if nearest is not None:
            expected = f"is not a known key; known here: {', '.join(_KEYS)}"
            raise ConfigError(field=f"{_FIELD}.{key}", expected=expected, nearest=nearest)


def _nearest(key: str) -> str | None:
    """Return the key that another one is taken for: much like it, or a whole part of it, or the reverse."""
    alike = get_close_matches(key, _KEYS, n=1, cutoff=0.75)
    parts = [known for known in _KEYS if set(key.split("_")) <= set(known.split("_"))]
    longer = [known for known in _KEYS if set(known.split("_")) < set(key.split("_"))]
    return next(iter([*alike, *parts, *longer]), None)


def _renamed(values: dict[str, object]) -> dict[str, object]:
    older, name = values.pop(_OLDER_NAME, None), values.get("NAME")
    if older is None or (older in ("", name) and name is not None):
        return values
    if name not in (None, ""):
        expected = f"is also given as {_OLDER_NAME}, its older spelling, with another value; keep one of them"
        raise ConfigError(field=f"{_FIELD}.NAME", expected=expected)
    return {**values, "NAME": older}
