"""`linnaeus cache` with directories of shards: listed, checked to the last byte, removed whole."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import linnaeus
from linnaeus import pth
from linnaeus.files import file_digest
from linnaeus.resolving import _cache, cached_files, evict, plan_eviction
from support.directories import content, names
from support.program import linnaeus as program

OLDEST = 1_000_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A cache with two directories of shards, one of torch's own, and a file, least recently used first."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, name in enumerate(("a.sharded", "b.sharded")):
        pth.save_sharded({"model": {"w": torch.full((1000,), float(number))}}, cache / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no process group
        dcp.save({"w": torch.ones(1000)}, checkpoint_id=cache / "plain")
    linnaeus.save({"w": torch.ones(1000)}, cache / "c.pth")
    for age, name in enumerate(("a.sharded", "b.sharded", "plain", "c.pth")):
        for path in [cache / name, *(cache / name).glob("*"), *(cache / name).glob(".*")]:
            os.utime(path, (OLDEST + age, OLDEST + age))
    return cache


def shard(directory: Path) -> Path:
    """Return a directory's largest file."""
    return max(directory.iterdir(), key=lambda file: file.stat().st_size)


def cache(place: Path, *words: str) -> Any:
    """Run a command of `linnaeus cache`."""
    return program("cache", *words, "--set", f"ENV.INPUT.CACHE_DIR={place}", cwd=place.parent)


def listed(place: Path, *words: str) -> dict[str, dict[str, Any]]:
    """Return what a command tells of each name."""
    ended = cache(place, *words, "--json")
    return {one["name"]: one for one in json.loads(ended.out)["files"]}


def test_they_are_listed(place: Path) -> None:
    """With the size of all files, the last use of any, and the digest of the commit file."""
    os.utime(shard(place / "a.sharded"), (OLDEST + 9, OLDEST + 9))
    found = listed(place, "ls")
    assert list(found) == ["b.sharded", "plain", "c.pth", "a.sharded"]
    told = found["a.sharded"]
    assert (told["kind"], told["num_files"], told["problem"]) == ("directory", 3, None)
    assert told["size_bytes"] == sum(map(len, content(place / "a.sharded").values()))
    assert told["used"] == OLDEST + 9
    assert told["sha256"] == file_digest(place / "a.sharded" / pth.COMMIT, "sha256")
    assert (found["plain"]["sha256"], found["c.pth"]["kind"]) == (None, "file")
    assert "1 file and 3 directories" in cache(place, "ls").out


def test_what_is_unfinished_is_told(place: Path) -> None:
    """A directory without its commit file, or with a shard missing or cut, shows its state."""
    (place / "a.sharded" / pth.COMMIT).unlink()
    shard(place / "b.sharded").unlink()
    found = listed(place, "ls")
    assert "never finished" in found["a.sharded"]["problem"]
    assert "missing" in found["b.sharded"]["problem"]
    assert "never finished" in cache(place, "ls").out


def test_every_byte_is_checked(place: Path) -> None:
    """A damaged shard is told with the exit code of damage, and nothing is moved or removed."""
    assert cache(place, "verify").code == 0
    damaged = shard(place / "b.sharded")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    ended = cache(place, "verify", "--json")
    found = {one["name"]: one for one in json.loads(ended.out)["files"]}
    assert ended.code == 6
    assert [name for name, one in found.items() if not one["ok"]] == ["b.sharded"]
    assert damaged.name in found["b.sharded"]["problem"]
    ended = cache(place, "verify")
    assert (ended.code, "b.sharded" in ended.err, "3 of 1 file and 3 directories whole" in ended.out) == (
        (6, True, True)
    )


def test_the_least_recently_used_goes_whole(place: Path) -> None:
    """Until the rest fits; a dry run only says so."""
    before = names(place)
    sizes = {one["name"]: one["size_bytes"] for one in listed(place, "ls").values()}
    rest = str(sum(sizes.values()) - sizes["a.sharded"])
    plan = listed(place, "prune", "--max-size", rest, "--dry-run")
    assert [name for name, one in plan.items() if one["removed"]] == ["a.sharded"]
    assert names(place) == before
    ended = cache(place, "prune", "--max-size", rest)
    assert "1 directory" in ended.out
    assert [name for name in names(place) if name[0] != "."] == ["b.sharded", "c.pth", "plain"]
    assert not list((place / ".linnaeus").glob(".*"))


def test_what_a_process_reads_stays(place: Path) -> None:
    """As long as any of its files is open."""
    with shard(place / "a.sharded").open("rb"):
        done = listed(place, "prune", "--older-than", "1s")
    assert done["a.sharded"]["reason"] == "in use by a process"
    assert len(content(place / "a.sharded")) == 3
    assert not (place / "b.sharded").exists()


def test_what_is_locked_stays(place: Path) -> None:
    """By its name, and under any other name by its digest."""
    (place.parent / "exp.yaml").write_text("MODEL: {PRETRAINED: a.sharded}\n")
    setting = ["--set", f"ENV.INPUT.CACHE_DIR={place}"]
    assert program("lock", "exp.yaml", *setting, cwd=place.parent).code == 0
    shutil.copytree(place / "a.sharded", place / "copy.sharded")
    ended = cache(place, "prune", "--older-than", "1s", "--config", "exp.yaml")
    assert ended.code == 0, ended
    assert [name for name in names(place) if name[0] != "."] == ["a.sharded", "copy.sharded"]


def test_half_a_directory_never_has_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first file goes, the name is gone; what is left then has a name that is swept."""
    seen: list[list[str]] = []

    def cut(path: Path) -> None:
        seen.append([name for name in names(place) if name.startswith("a.sharded")])
        shard(path).unlink()
        raise OSError("killed")

    monkeypatch.setattr(_cache.shutil, "rmtree", cut)
    found = [one for one in cached_files(place) if one.path.name == "a.sharded"]
    plan = plan_eviction(found, max_bytes=0, older_than_seconds=None, now=0.0, pinned=())
    with pytest.raises(OSError, match="killed"):
        evict(plan)
    assert seen == [[]]
    assert "a.sharded" not in [one.path.name for one in cached_files(place)]
    assert len([name for name in names(place / ".linnaeus") if name.endswith(".tmp")]) == 1


def test_other_directories_are_nobodys_business(place: Path) -> None:
    """What is no checkpoint is neither listed nor removed."""
    (place / "notes").mkdir()
    (place / "notes" / "text").write_text("mine")
    assert "notes" not in listed(place, "ls")
    assert cache(place, "prune", "--max-size", "0B").code == 0
    assert (place / "notes" / "text").read_text() == "mine"
