"""One name for all ranks of a job: a download for each cache, however many ranks ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import linnaeus
from linnaeus.distributed import Group
from linnaeus.errors import CheckpointNotFoundError, PinMismatchError
from linnaeus.files import file_digest
from linnaeus.resolving import _together, resolve_together
from support.buckets import directory_bucket
from support.threads_as_ranks import run_ranks


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of caches into which something was fetched."""
    caches: list[str] = []
    really, lock = _together.resolve, threading.Lock()

    def noted(name: str, cfg: linnaeus.Config, **more: Any) -> Path:
        with lock:
            if not (cfg.ENV.INPUT.CACHE_DIR / name).exists():
                caches.append(str(cfg.ENV.INPUT.CACHE_DIR))
        return really(name, cfg, **more)

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
    assert not list((tmp_path / "cache" / ".linnaeus").glob(".*"))


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


def test_pinned_names_are_resolved_together(tmp_path: Path, local_bucket: Path) -> None:
    """A name held to a digest is fetched once for each cache; another content is the same error on all."""
    digest = file_digest(local_bucket / "modelZoo" / "x.pth", "sha256")

    def ask(pin: str) -> dict[int, Any]:
        return run_ranks(
            4, _asking(local_bucket, lambda r: tmp_path / f"node{r // 2}", f"x.pth@sha256:{pin}")
        )

    assert {path.name for path in ask(digest).values()} == {"x.pth"}
    assert {type(error) for error in ask("0" * 64).values()} == {PinMismatchError}


def test_who_still_fetches_is_told_to_end(tmp_path: Path, local_bucket: Path) -> None:
    """When one node's fetch fails, the other's long one ends too, with the same error."""
    told = threading.Event()

    def act(group: Group) -> Any:
        def decide(still_wanted: Callable[[], None]) -> None:
            if group.rank == 0:
                raise CheckpointNotFoundError(identifier="x.pth", places=["nowhere"])
            while not told.wait(0.01):
                still_wanted()

        group.barrier("begin")
        return group.decide_apart("fetching", 0 if group.rank < 2 else 2, decide)

    outcomes = run_ranks(4, act)
    told.set()
    assert {(type(error), str(error)) for error in outcomes.values()} == {
        (CheckpointNotFoundError, "checkpoint 'x.pth' not found: nowhere.")
    }
