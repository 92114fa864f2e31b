"""Look into a checkpoint without fetching it."""

from __future__ import annotations

from linnaeus.config import Config
from linnaeus.pretrained._sources import Look, look_here


def look_without_fetching(cfg: Config) -> Look:
    """Return what looks into a checkpoint."""
    return look_here(cfg)
