"""Real ranks on two nodes with a cache each ask for one name."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import names
from support.torchrun import on_ranks, ranks

pytestmark = pytest.mark.slow

_OBJECT = f"{PREFIX}big.pth"


@pytest.fixture
def data(b2: B2Server) -> bytes:
    """The bytes of an object on the server that takes several pieces to pass on."""
    noise = torch.randn(6 << 20, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    torch.save({"model": {"weight": noise}}, buffer)
    b2.put(BUCKET, _OBJECT, buffer.getvalue())
    return buffer.getvalue()


@pytest.fixture
def job(tmp_path: Path, b2: B2Server) -> Path:
    """The directory of a job that pays for one download."""
    settings = b2_bucket(b2, PER_JOB=True, IDLE_TIMEOUT_SECONDS=60.0).model_dump()
    (tmp_path / "input.json").write_text(json.dumps({"BUCKET": settings}))
    return tmp_path


def _met(job: Path, *ranks: int) -> list[dict[str, Any]]:
    return [json.loads((job / f"met_{rank}.json").read_text()) for rank in ranks]


def test_one_download_serves_the_whole_job(job: Path, b2: B2Server, data: bytes) -> None:
    """With PER_JOB the bucket serves each byte once, and both caches hold the file and nothing else."""
    on_ranks(4, job, "fetches:big.pth")
    assert [Path(met["path"]).parent.name for met in _met(job, 0, 1, 2, 3)] == ["node0"] * 2 + ["node1"] * 2
    assert all((job / node / "big.pth").read_bytes() == data for node in ("node0", "node1"))
    assert b2.bytes_served(_OBJECT) == len(data)
    assert all(names(job / node) == [".linnaeus", "big.pth"] for node in ("node0", "node1"))
    assert not [name for name in names(job / "node1" / ".linnaeus") if ".part" in name]


def test_what_one_node_has_is_not_downloaded(job: Path, b2: B2Server, data: bytes) -> None:
    """The cache that has the file is the source, whichever node's it is."""
    (job / "node1").mkdir()
    (job / "node1" / "big.pth").write_bytes(data)
    on_ranks(4, job, "fetches:big.pth")
    assert (job / "node0" / "big.pth").read_bytes() == data
    assert b2.bytes_served(_OBJECT) == 0


def test_each_node_verifies_what_it_got(job: Path, b2: B2Server, data: bytes) -> None:
    """A damaged file that lies in one node's cache does not get into another's."""
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    (job / "node1").mkdir()
    (job / "node1" / "big.pth").write_bytes(broken)
    on_ranks(4, job, "fetches:big.pth")
    assert {met.get("error") for met in _met(job, 0, 1, 2, 3)} == {"CorruptCheckpointError"}
    assert not (job / "node0" / "big.pth").exists()


def test_a_name_that_is_nowhere_is_the_same_error_on_all(job: Path, b2: B2Server) -> None:
    """The downloader's error is every rank's."""
    on_ranks(4, job, "fetches:big.pth")
    assert {met["error"] for met in _met(job, 0, 1, 2, 3)} == {"CheckpointNotFoundError"}
    assert len({met["text"] for met in _met(job, 0, 1, 2, 3)}) == 1


@pytest.mark.parametrize(
    ("place", "victim", "how"),
    [
        ("give", 0, "killed"),
        ("take", 2, "killed"),
        ("take", 2, "stopped"),
        ("give", 0, "stopped"),
    ],
)
def test_a_lost_rank_is_named_by_all(
    job: Path, b2: B2Server, data: bytes, place: str, victim: int, how: str
) -> None:
    """All others raise, naming it; and what had arrived is gone on with the next time."""
    with ranks(4, job, f"fetches:big.pth:{place}:{victim}:{how}") as started:
        others = [rank for rank in range(4) if rank != victim]
        assert [started[rank].wait(timeout=60) for rank in others] == [0] * 3
    assert [met["ranks"] for met in _met(job, *others)] == [[victim]] * 3
    assert not (job / "node1" / "big.pth").exists()
    on_ranks(4, job, "fetches:big.pth")
    assert all((job / node / "big.pth").read_bytes() == data for node in ("node0", "node1"))
    assert b2.bytes_served(_OBJECT) == len(data)


def test_a_full_disk_on_the_receiver_is_told_at_once(job: Path, b2: B2Server, data: bytes) -> None:
    """Every rank raises that error, and the next try succeeds without a second download."""
    on_ranks(4, job, "fetches:big.pth:keep:2:full")
    assert {met["error"] for met in _met(job, 0, 1, 2, 3)} == {"InsufficientSpaceError"}
    assert not (job / "node1" / "big.pth").exists()
    on_ranks(4, job, "fetches:big.pth")
    assert (job / "node1" / "big.pth").read_bytes() == data
    assert b2.bytes_served(_OBJECT) == len(data)


@pytest.mark.parametrize(("victim", "how"), [(2, "killed"), (0, "killed"), (2, "stopped")])
def test_a_fetcher_that_is_gone_is_named_on_all_nodes(
    tmp_path: Path, b2: B2Server, victim: int, how: str
) -> None:
    """Also when it was alone on its node, so that nobody else waits for what it fetches."""
    (tmp_path / "input.json").write_text(json.dumps({"BUCKET": b2_bucket(b2).model_dump()}))
    with ranks(3, tmp_path, f"fetches:x.pth:fetch:{victim}:{how}") as started:
        others = [rank for rank in range(3) if rank != victim]
        assert [started[rank].wait(timeout=60) for rank in others] == [0, 0]
    assert [met["ranks"] for met in _met(tmp_path, *others)] == [[victim]] * 2
    assert not (tmp_path / f"node{victim // 2}" / "x.pth").exists()
