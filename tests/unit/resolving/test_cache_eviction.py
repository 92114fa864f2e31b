"""What goes from a cache that is too large."""

from __future__ import annotations

import os
from pathlib import Path

from linnaeus.resolving import cached_files, plan_eviction


def planned(cache: Path, max_bytes: int) -> dict[str, bool]:
    """Return for each name whether it would go."""
    files = cached_files(cache)
    plan = plan_eviction(files, max_bytes=max_bytes, older_than_seconds=None, now=0.0, pinned=())
    return {item.cached.path.name: item.removed for item in plan}


def test_names_that_share_their_disk_count_once_and_free_it_with_the_last(tmp_path: Path) -> None:
    """Two of three names are one file: all fit where the bytes do, and one of the two alone frees nothing."""
    for age, name in enumerate(("a.pth", "c.pth")):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (age * 100, age * 100))
    os.link(tmp_path / "a.pth", tmp_path / "b.pth")
    assert planned(tmp_path, 2000) == {"a.pth": False, "b.pth": False, "c.pth": False}
    assert planned(tmp_path, 1999) == {"a.pth": True, "b.pth": True, "c.pth": False}
