"""From the MODEL section of a config to a model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.models._mformer import mFormer
from linnaeus.models._shapes import VARIANTS, MFormerShape
from linnaeus.models._timm import PREFIX, TimmClassifier

Options = Mapping[str, Any]

_CONVNEXT_KEYS = {"DIMS": "conv_dims", "DEPTHS": "conv_depths", "GAMMA": "conv_gamma"}
_ROPE_KEYS = {
    "DIM": "dim",
    "DEPTH": "depth",
    "NUM_HEADS": "num_heads",
    "MLP_RATIO": "mlp_ratio",
    "LAYER_SCALE": "layer_scale",
    "ROPE_MIXED": "rope_mixed",
    "ROPE_THETA": "rope_theta",
}


def model_names() -> tuple[str, ...]:
    """Return what MODEL.NAME may say."""
    return tuple(VARIANTS)


def build_model(cfg: Config) -> nn.Module:
    """Build the model that a config describes, with fresh weights from torch's default generator.

    A name that begins with `timm/` is that of a backbone of timm, where it is installed. For our own models,
    read are MODEL.NAME (or MODEL.TYPE), MODEL.HEADS ({rank: classes}), MODEL.IN_CHANS (3), MODEL.IMG_SIZE,
    MODEL.STEM_PATCH_SIZE, and what differs from the named size in MODEL.CONVNEXT_STAGES (DIMS, DEPTHS, GAMMA)
    and MODEL.ROPE_STAGES (DIM, DEPTH, NUM_HEADS, MLP_RATIO, LAYER_SCALE, ROPE_MIXED, ROPE_THETA).

    Args:
        cfg: The config.

    Returns:
        The model, on the default device.

    Raises:
        ConfigError: No such model, or options that make none.
    """
    options = cast("Options", cfg.to_plain()["MODEL"])
    in_chans = _whole(options.get("IN_CHANS", 3), "MODEL.IN_CHANS")
    name = str(options.get("NAME") or "")
    if name.startswith(PREFIX):
        return TimmClassifier(name.removeprefix(PREFIX), heads=_heads(options), in_chans=in_chans)
    shape = _shape(options)
    _check_image_size(options.get("IMG_SIZE"), shape)
    return mFormer(shape, heads=_heads(options), in_chans=in_chans)


def _shape(options: Options) -> MFormerShape:
    changes = _changes(options, "CONVNEXT_STAGES", _CONVNEXT_KEYS) | _changes(
        options, "ROPE_STAGES", _ROPE_KEYS
    )
    if options.get("STEM_PATCH_SIZE") is not None:
        changes["stem_patch"] = _whole(options["STEM_PATCH_SIZE"], "MODEL.STEM_PATCH_SIZE")
    return replace(_variant(options), **changes)


def _variant(options: Options) -> MFormerShape:
    key = "NAME" if options.get("NAME") else "TYPE"
    name = options.get(key)
    if isinstance(name, str) and name in VARIANTS:
        return VARIANTS[name]
    raise ConfigError(
        field=f"MODEL.{key}" if name else "MODEL.NAME",
        expected=f"a model is one of {', '.join(VARIANTS)}",
        value=name,
        nearest=_nearest(str(name), VARIANTS),
    )


def _nearest(word: str, known: Mapping[str, object]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _changes(options: Options, section: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the shape that one section changes."""
    given: object = options.get(section) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(field=f"MODEL.{section}", expected="a section of keys", value=given)
    return {_field(key, section, keys): _value(key, value, section) for key, value in given.items()}


def _field(key: str, section: str, keys: Mapping[str, str]) -> str:
    if key in keys:
        return keys[key]
    raise ConfigError(
        field=f"MODEL.{section}.{key}",
        expected=f"known are {', '.join(keys)}",
        nearest=_nearest(key, keys),
    )


def _value(key: str, value: object, section: str) -> object:
    return _READERS[key](value, f"MODEL.{section}.{key}")


def _whole(value: object, field: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigError(field=field, expected="a whole number above zero", value=value)


def _number(value: object, field: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ConfigError(field=field, expected="a number above zero", value=value)


def _number_or_none(value: object, field: str) -> float | None:
    return None if value is None else _number(value, field)


def _flag(value: object, field: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(field=field, expected="true or false", value=value)


def _wholes(length: int) -> Callable[[object, str], tuple[int, ...]]:
    def read(value: object, field: str) -> tuple[int, ...]:
        if isinstance(value, list | tuple) and len(value) == length:
            return tuple(_whole(item, field) for item in value)
        raise ConfigError(field=field, expected=f"a list of {length} whole numbers", value=value)

    return read


_READERS: Mapping[str, Callable[[object, str], object]] = {
    "DIMS": _wholes(3),
    "DEPTHS": _wholes(2),
    "GAMMA": _number,
    "DIM": _whole,
    "DEPTH": _whole,
    "NUM_HEADS": _whole,
    "MLP_RATIO": _whole,
    "LAYER_SCALE": _number_or_none,
    "ROPE_MIXED": _flag,
    "ROPE_THETA": _number_or_none,
}


def _heads(options: Options) -> dict[str, int]:
    heads = options.get("HEADS")
    if not isinstance(heads, Mapping) or not heads:
        raise ConfigError(
            field="MODEL.HEADS",
            expected="the number of classes of each rank, as {species: 1000}",
            value=heads,
        )
    return {str(rank): _whole(classes, f"MODEL.HEADS.{rank}") for rank, classes in heads.items()}


def _check_image_size(size: object, shape: MFormerShape) -> None:
    """Refuse an image size that tokens do not tile: the convolutions would drop its edge without a word."""
    if size is None:
        return
    sides = size if isinstance(size, list | tuple) else (size,)
    if any(_whole(side, "MODEL.IMG_SIZE") % shape.stride for side in sides):
        raise ConfigError(
            field="MODEL.IMG_SIZE",
            expected=f"a multiple of {shape.stride} pixels (stem patch {shape.stem_patch}, halved twice)",
            value=size,
        )
