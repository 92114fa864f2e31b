"""`latest.pth` and `best.pth`: relative links for people, which decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linnaeus.files import point_link, remove_file
from linnaeus.runs import BEST_LINK, LATEST_LINK, RunCheckpoint
from linnaeus.saving._retention import Retention


def point_links(directory: Path, newest_name: str, kept: Sequence[RunCheckpoint], rules: Retention) -> None:
    """Make the links name the newest and the best of what is kept.

    Raises:
        OSError: The system refused.
    """
    point_link(directory / LATEST_LINK, newest_name)
    best = rules.ranked(kept)
    if best:
        point_link(directory / BEST_LINK, best[0].name)
    elif (directory / BEST_LINK).is_symlink():  # what it names is about to be pruned
        remove_file(directory / BEST_LINK)
