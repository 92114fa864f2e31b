"""Record what the names of a config stand for, so that later runs are held to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus import pth
from linnaeus.files import write_text
from linnaeus.resolving._identifier import is_absolute
from linnaeus.resolving._pins import LOCK_NAME, Locked, lock_text, split_pin
from linnaeus.resolving._records import record_of, sha256_of
from linnaeus.resolving._resolve import resolve_in

if TYPE_CHECKING:
    from linnaeus.config import Config
    from linnaeus.remote import Progress

_NO_NAMES = ("PRETRAINED_SOURCE", "PRETRAINED_RECIPE", "PRETRAINED_CONTAINER", "PRETRAINED_HEADS")


def names_in(cfg: Config) -> list[str]:
    """Return the checkpoints that a config names: those that a model starts from, and TRAIN.RESUME."""
    return list(dict.fromkeys(_names(cfg)))


def _names(cfg: Config) -> Iterator[str]:
    model = cfg.MODEL.model_dump()
    for key, value in model.items():
        if key.startswith("PRETRAINED") and key not in _NO_NAMES and isinstance(value, str) and value:
            yield value
    if cfg.TRAIN.RESUME:
        yield cfg.TRAIN.RESUME


def lock(
    cfg: Config, config_path: Path, *, also: Iterable[str] = (), progress: Progress | None = None
) -> dict[str, Locked]:
    """Resolve every name of a config anew and write `linnaeus.lock` beside it.

    Args:
        cfg: The config; a lock file that it was held to so far is not heeded.
        config_path: Its file.
        also: What else it names in effect, as the sources of a recipe of its own.
        progress: Called now and then while files are fetched.

    Returns:
        What was written, by name.

    Raises:
        LinnaeusError: One of them can't be had, as `resolve`; the lock file stays as it was.
    """
    entries: dict[str, Locked] = {}
    for identifier in dict.fromkeys([*names_in(cfg), *also]):
        entries |= _locked(identifier, cfg, progress)
    write_text(config_path.with_name(LOCK_NAME), lock_text(entries))
    return entries


def _locked(identifier: str, cfg: Config, progress: Progress | None) -> dict[str, Locked]:
    """Return what one identifier stands for, and what the files that it is an index of are."""
    place = cfg.ENV.INPUT
    name, _ = split_pin(identifier)
    found = _resolve(identifier, str(place.CACHE_DIR), cfg, progress)
    known = record_of(found)
    source = known.source if known is not None else None
    digest = sha256_of(found)
    where = source or _where(found, Path(place.CACHE_DIR))
    entries = {name: Locked(pth.size_of(found), digest, where)}
    for part in pth.describe(found).keys if found.name.endswith(pth.INDEX_SUFFIX) else ():
        entries |= _locked(str(found.with_name(part)) if is_absolute(name) else part, cfg, progress)
    return entries


def _resolve(identifier: str, cache_dir: str, cfg: Config, progress: Progress | None) -> Path:
    place = cfg.ENV.INPUT
    if not identifier.startswith("https://"):
        path = resolve_in(identifier, cache_dir, place.BUCKET, progress=progress, offline=place.OFFLINE)
        return Path(path)
    from linnaeus.resolving._elsewhere import record_url

    return record_url(identifier, cache_dir, place.BUCKET, progress=progress, offline=place.OFFLINE)


def _where(path: Path, cache_dir: Path) -> str:
    return "the cache" if path.parent == cache_dir else str(path.parent)
