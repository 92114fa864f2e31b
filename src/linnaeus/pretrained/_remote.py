"""Look into a checkpoint without fetching it: here, or by ranges of its bytes in the bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from linnaeus.config import Config
from linnaeus.errors import CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.pretrained._sources import Look, look_here
from linnaeus.pth import INDEX_SUFFIX, sketch_there
from linnaeus.remote import Session, open_remote
from linnaeus.resolving import check_name, is_only_there, split_pin


def look_without_fetching(cfg: Config) -> Look:
    """Return what looks into a checkpoint wherever it is; of one in the bucket, into its header only."""
    here, bucket = look_here(cfg), cfg.ENV.INPUT.BUCKET

    def look(identifier: str) -> tuple[Any, str]:
        if not is_only_there(identifier, cfg):
            return here(identifier)
        name, _ = split_pin(identifier)  # what it is pinned to is compared when it is fetched
        with open_remote(bucket).session() as session:
            return _there(session, name), f"{name} in {session.place}"

    return look


def _there(session: Session, name: str) -> Any:
    known = session.stat(name)
    if known is None:
        raise CheckpointNotFoundError(
            identifier=name,
            places=["not in the cache", f"not in {session.place}"],
            advice="List what there is: linnaeus ls --remote",
        )
    if name.endswith(INDEX_SUFFIX):
        content: dict[str, Any] = {}
        for part in _parts(name, session.read(name, 0, known.size_bytes)):
            content |= _there(session, part)
        return content
    return sketch_there(name, known.size_bytes, lambda start, length: session.read(name, start, length))


def _parts(name: str, data: bytes) -> list[str]:
    try:
        places = json.loads(data)["weight_map"]
        parts = list(dict.fromkeys(places.values())) if isinstance(places, Mapping) else []
        return [check_name(part) for part in parts]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpointError(
            path=name, problem=f"it is no index of safetensors files ({error})"
        ) from error
