"""`latest.pth` and `best.pth`: relative links for people, which decide nothing.

Where they lead to directories of shards they are `latest.sharded` and `best.sharded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linnaeus.files import point_link, remove_file
from linnaeus.runs import BEST_LINK, LATEST_LINK, SHARDED_SUFFIX, RunCheckpoint
from linnaeus.saving._retention import Retention


def point_links(directory: Path, newest_name: str, kept: Sequence[RunCheckpoint], rules: Retention) -> None:
    """Make the links name the newest and the best of what is kept.

    Raises:
        OSError: The system refused.
    """
    best = rules.ranked(kept)
    _point(directory / LATEST_LINK, newest_name)
    _point(directory / BEST_LINK, best[0].name if best else None)


def _point(link: Path, name: str | None) -> None:
    """Make a link name a checkpoint, with the suffix of that; one of another suffix goes, as it misleads."""
    for suffix in (link.suffix, SHARDED_SUFFIX):
        mine = link.with_suffix(suffix)
        if name is not None and Path(name).suffix == suffix:
            point_link(mine, name)
        elif mine.is_symlink():  # what it names is about to be pruned, or no more the one
            remove_file(mine)
