"""Real ranks on two nodes with a cache each ask for one directory of shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from linnaeus import pth
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import content, names
from support.torchrun import on_ranks, ranks

pytestmark = pytest.mark.slow

NAME = "big.sharded"
Files = Mapping[str, bytes]


@pytest.fixture
def files(tmp_path: Path, b2: B2Server) -> Files:
    """The files of a directory on the server that take several pieces to pass on, by name."""
    noise = torch.randn(6 << 20, generator=torch.Generator().manual_seed(0))
    pth.save_sharded({"model": {"weight": noise}}, tmp_path / "made.sharded")
    found = content(tmp_path / "made.sharded")
    for name, data in found.items():
        b2.put(BUCKET, f"{PREFIX}{NAME}/{name}", data)
    shutil.rmtree(tmp_path / "made.sharded")
    return found


@pytest.fixture
def job(tmp_path: Path, b2: B2Server) -> Path:
    """The directory of a job that pays for one download."""
    return _job(tmp_path, b2, PER_JOB=True)


def _job(directory: Path, b2: B2Server, **settings: Any) -> Path:
    bucket = b2_bucket(b2, IDLE_TIMEOUT_SECONDS=60.0, **settings).model_dump()
    (directory / "input.json").write_text(json.dumps({"BUCKET": bucket}))
    return directory


def _met(job: Path, *ranks: int) -> list[dict[str, Any]]:
    return [json.loads((job / f"met_{rank}.json").read_text()) for rank in ranks]


def _served(b2: B2Server, files: Files) -> int:
    return sum(b2.bytes_served(f"{PREFIX}{NAME}/{name}") for name in files)


def _size(files: Files) -> int:
    return sum(map(len, files.values()))


def _here(job: Path, files: Files) -> list[bool]:
    return [content(job / node / NAME) == files for node in ("node0", "node1")]


def test_one_download_serves_each_cache(tmp_path: Path, b2: B2Server, files: Files) -> None:
    """Two ranks share a cache, and so one download; nothing is left beside the directory."""
    job = _job(tmp_path, b2)
    on_ranks(4, job, f"fetches:{NAME}")
    assert _here(job, files) == [True, True]
    assert _served(b2, files) == 2 * _size(files)
    assert all(names(job / node) == [".linnaeus", NAME] for node in ("node0", "node1"))


def test_one_download_serves_the_whole_job(job: Path, b2: B2Server, files: Files) -> None:
    """With PER_JOB the bucket serves each byte once, and both caches hold the directory and nothing else."""
    on_ranks(4, job, f"fetches:{NAME}")
    assert [Path(met["path"]).parent.name for met in _met(job, 0, 1, 2, 3)] == ["node0"] * 2 + ["node1"] * 2
    assert _here(job, files) == [True, True]
    assert _served(b2, files) == _size(files)
    assert all(names(job / node) == [".linnaeus", NAME] for node in ("node0", "node1"))
    assert not [name for name in names(job / "node1" / ".linnaeus") if ".part" in name]
    on_ranks(4, job, f"fetches:{NAME}")
    assert _served(b2, files) == _size(files)


def test_what_one_node_has_is_not_downloaded(job: Path, b2: B2Server, files: Files) -> None:
    """The cache that has the directory is the source, whichever node's it is."""
    _put(job / "node1" / NAME, files)
    on_ranks(4, job, f"fetches:{NAME}")
    assert _here(job, files) == [True, True]
    assert _served(b2, files) == 0


def _put(directory: Path, files: Files) -> None:
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)


def test_each_node_verifies_what_it_got(job: Path, b2: B2Server, files: Files) -> None:
    """A damaged shard that lies in one node's cache does not get into another's."""
    shard = max(files, key=lambda name: len(files[name]))
    _put(job / "node1" / NAME, dict(files) | {shard: files[shard][:-1] + b"x"})
    on_ranks(4, job, f"fetches:{NAME}")
    assert {met.get("error") for met in _met(job, 0, 1, 2, 3)} == {"CorruptCheckpointError"}
    assert not (job / "node0" / NAME).exists()


def test_a_name_that_is_nowhere_is_the_same_error_on_all(job: Path, b2: B2Server) -> None:
    """The downloader's error is every rank's."""
    on_ranks(4, job, f"fetches:{NAME}")
    assert {met["error"] for met in _met(job, 0, 1, 2, 3)} == {"CheckpointNotFoundError"}
    assert len({met["text"] for met in _met(job, 0, 1, 2, 3)}) == 1


@pytest.mark.parametrize(
    ("place", "victim", "how"), [("give", 0, "killed"), ("take", 2, "killed"), ("take", 2, "stopped")]
)
def test_a_lost_rank_is_named_by_all(
    job: Path, b2: B2Server, files: Files, place: str, victim: int, how: str
) -> None:
    """All others raise, naming it; what had arrived is gone on with, and nothing is downloaded again."""
    with ranks(4, job, f"fetches:{NAME}:{place} of a directory:{victim}:{how}") as started:
        others = [rank for rank in range(4) if rank != victim]
        assert [started[rank].wait(timeout=60) for rank in others] == [0] * 3
    assert [met["ranks"] for met in _met(job, *others)] == [[victim]] * 3
    assert not (job / "node1" / NAME).exists()
    on_ranks(4, job, f"fetches:{NAME}")
    assert _here(job, files) == [True, True]
    assert _served(b2, files) == _size(files)


def test_a_full_disk_on_the_receiver_is_told_at_once(job: Path, b2: B2Server, files: Files) -> None:
    """Every rank raises that error, and the next try succeeds without a second download."""
    on_ranks(4, job, f"fetches:{NAME}:keep of a directory:2:full")
    assert {met["error"] for met in _met(job, 0, 1, 2, 3)} == {"InsufficientSpaceError"}
    assert not (job / "node1" / NAME).exists()
    on_ranks(4, job, f"fetches:{NAME}")
    assert _here(job, files) == [True, True]
    assert _served(b2, files) == _size(files)
