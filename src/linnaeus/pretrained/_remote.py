"""Look into a checkpoint without fetching it: here, or by ranges of its bytes in the bucket."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnaeus.config import Config
from linnaeus.errors import CheckpointNotFoundError, CorruptCheckpointError
from linnaeus.pretrained._sources import Look, look_here
from linnaeus.pth import (
    COMMIT,
    INDEX_SUFFIX,
    SHARDED,
    joined_parts,
    parse_index,
    sketch_sharded_there,
    sketch_there,
)
from linnaeus.remote import Session, open_remote
from linnaeus.resolving import about_sharded, is_absolute, is_only_there, resolve, sizes_there, split_pin


def look_without_fetching(cfg: Config) -> Look:
    """Return what looks into a checkpoint wherever it is; of one in the bucket, into its header only.

    What has its home elsewhere must be here already.
    """

    def look(identifier: str) -> tuple[Any, str]:
        with ExitStack() as stack:
            return _Looking(cfg, stack).into(identifier)

    return look


@dataclass(slots=True)
class _Looking:
    """One look, with one session for all files of a checkpoint, opened when it is first needed."""

    cfg: Config
    stack: ExitStack
    session: Session | None = field(default=None)

    def into(self, identifier: str) -> tuple[Any, str]:
        place = self.cfg.ENV.INPUT
        name, pinned = split_pin(identifier)
        if "://" in name:
            return look_here(_offline(self.cfg))(identifier)
        is_there = is_only_there(identifier, self.cfg)
        if name.endswith(INDEX_SUFFIX) and place.BUCKET.ENABLED and not (place.OFFLINE or is_absolute(name)):
            data = self._read_all(name) if is_there else resolve(identifier, self.cfg).read_bytes()
            return self._into_parts(name, data), name
        if not is_there:
            return look_here(self.cfg)(identifier)
        unchecked = ", its digest not yet compared" if pinned else ""
        return self._sketch(name), f"{name} in {self._bucket().place}{unchecked}"

    def _sketch(self, name: str) -> Any:
        if name.endswith(SHARDED):
            return self._sketch_sharded(name)
        size_bytes = self._size_bytes(name)
        try:
            return sketch_there(name, size_bytes, self._reading(name))
        except CorruptCheckpointError:  # damage on the way must not count as damage in the bucket
            return sketch_there(name, size_bytes, self._reading(name))

    def _sketch_sharded(self, name: str) -> Any:
        sizes = sizes_there(self._bucket(), name)
        if COMMIT not in sizes:
            raise self._not_found(name)
        return about_sharded(
            self._bucket(), name, sizes, lambda data: sketch_sharded_there(name, data, sizes)
        )

    def _into_parts(self, name: str, data: bytes) -> Any:
        places = parse_index(Path(name), data)
        parts = {part: self.into(part)[0] for part in dict.fromkeys(places.values())}
        return joined_parts(Path(name), places, parts)

    def _bucket(self) -> Session:
        if self.session is None:
            self.session = self.stack.enter_context(open_remote(self.cfg.ENV.INPUT.BUCKET).session())
        return self.session

    def _size_bytes(self, name: str) -> int:
        known = self._bucket().stat(name)
        if known is None:
            raise self._not_found(name)
        return known.size_bytes

    def _not_found(self, name: str) -> CheckpointNotFoundError:
        return CheckpointNotFoundError(
            identifier=name,
            places=["not in the cache", f"not in {self._bucket().place}"],
            advice="List what there is: linnaeus ls --remote",
        )

    def _read_all(self, name: str) -> bytes:
        return self._bucket().read(name, 0, self._size_bytes(name))

    def _reading(self, name: str) -> Any:
        return lambda start, length: self._bucket().read(name, start, length)


def _offline(cfg: Config) -> Config:
    place = cfg.ENV.INPUT.model_copy(update={"OFFLINE": True})
    return cfg.model_copy(update={"ENV": cfg.ENV.model_copy(update={"INPUT": place})})
