"""One name for all ranks of a job: a download for each cache, however many ranks ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import linnaeus
from linnaeus.distributed import Group
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.resolving import _together, resolve_together
from support.buckets import directory_bucket
from support.threads_as_ranks import run_ranks


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of caches into which something was fetched."""
    caches: list[str] = []
    really, lock = _together.resolve, threading.Lock()

    def noted(name: str, cfg: linnaeus.Config) -> Path:
        with lock:
            caches.append(str(cfg.ENV.INPUT.CACHE_DIR))
        return really(name, cfg)

    monkeypatch.setattr(_together, "resolve", noted)
    return caches


def _asking(bucket: Path, cache_of: Callable[[int], Path], name: str = "x.pth") -> Callable[[Group], Any]:
    def act(group: Group) -> Path:
        place = {"CACHE_DIR": str(cache_of(group.rank)), "BUCKET": dict(directory_bucket(bucket))}
        return resolve_together(name, linnaeus.Config.from_plain({"ENV": {"INPUT": place}}), group)

    return act


def test_a_shared_cache_is_filled_once(tmp_path: Path, local_bucket: Path, fetched: list[str]) -> None:
    """Ranks that see each other's marks leave the fetching to one of them."""
    outcomes = run_ranks(5, _asking(local_bucket, lambda _: tmp_path / "cache"))
    assert set(outcomes.values()) == {tmp_path / "cache" / "x.pth"}
    assert fetched == [str(tmp_path / "cache")]
    assert not list((tmp_path / "cache" / ".linnaeus").glob("*.mark"))


def test_each_cache_of_its_own_is_filled_once(tmp_path: Path, local_bucket: Path, fetched: list[str]) -> None:
    """Of six ranks on two nodes, two fetch; which share a cache is not configured anywhere."""
    outcomes = run_ranks(6, _asking(local_bucket, lambda rank: tmp_path / f"node{rank // 3}"))
    assert [outcomes[rank].parent.name for rank in range(6)] == ["node0"] * 3 + ["node1"] * 3
    assert sorted(Path(cache).name for cache in fetched) == ["node0", "node1"]
    assert all(path.is_file() for path in outcomes.values())


def test_a_failed_fetch_is_the_same_error_on_all(tmp_path: Path, local_bucket: Path) -> None:
    """When the name is nowhere, every rank raises what the one that looked raised."""
    outcomes = run_ranks(4, _asking(local_bucket, lambda rank: tmp_path / f"node{rank // 2}", "z.pth"))
    assert {type(error) for error in outcomes.values()} == {CheckpointNotFoundError}
    assert len({str(error).split("cache")[0] for error in outcomes.values()}) == 1
