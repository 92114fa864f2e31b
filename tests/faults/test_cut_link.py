"""Two nodes between which the link is cut: every rank raises in time, and nothing half-written is left."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from linnaeus.resuming import choose_newest
from support.buckets import directory_bucket
from support.processes import wait_until
from support.two_nodes import TwoNodes, two_nodes

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    """Two nodes, where the machine allows them."""
    with two_nodes() as made:
        if isinstance(made, str):
            pytest.skip(f"no network namespaces here: {made}")
        yield made


def _cut_in_the_middle(nodes: TwoNodes, directory: Path, scenario: str) -> list[dict[str, Any]]:
    """Run ranks until one says that it is in the middle, cut the link, and return what all met."""
    with nodes.ranks(2, directory, scenario) as started:
        wait_until(lambda: (directory / "in_the_middle").exists() or _ended(started), seconds=90)
        nodes.cut()
        (directory / "cut").touch()
        for process in started:
            process.wait(timeout=90)
    return [json.loads((directory / f"met_{rank}.json").read_text()) for rank in range(4)]


def _ended(started: list[Any]) -> bool:
    return any(process.poll() is not None for process in started)


def test_in_the_middle_of_a_save(nodes: TwoNodes, tmp_path: Path) -> None:
    """Ranks beside the store name those that are cut off, these that the store is; the last save stays."""
    met = _cut_in_the_middle(nodes, tmp_path, "saves_over_a_cut_link")
    assert [one["error"] for one in met] == ["PeerFailedError"] * 4
    assert all(one["ranks"] in ([2], [2, 3]) for one in met[:2])  # the other may have told of its part before
    assert [one["ranks"] for one in met[2:]] == [[0]] * 2
    assert all("does not answer" in one["text"] for one in met[2:])
    choice = choose_newest(tmp_path / "run")
    assert choice is not None
    assert choice.path.name == "checkpoint_epoch_0.pth"
    assert choice.passed_over == ()
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_in_the_middle_of_a_resolve(nodes: TwoNodes, tmp_path: Path) -> None:
    """While one node hands a file on to the other: all raise, and no cache has half a file."""
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.randn(6 << 20)}}, buffer)
    (tmp_path / "bucket" / "modelZoo").mkdir(parents=True)
    (tmp_path / "bucket" / "modelZoo" / "big.pth").write_bytes(buffer.getvalue())
    settings = directory_bucket(tmp_path / "bucket", PER_JOB=True, IDLE_TIMEOUT_SECONDS=60.0).model_dump()
    (tmp_path / "input.json").write_text(json.dumps({"BUCKET": settings}))
    met = _cut_in_the_middle(nodes, tmp_path, "fetches:big.pth:keep:2:cut")
    assert [one["error"] for one in met] == ["PeerFailedError"] * 4
    assert [one["ranks"] for one in met[2:]] == [[0]] * 2
    assert (tmp_path / "node0" / "big.pth").read_bytes() == buffer.getvalue()
    assert not (tmp_path / "node1" / "big.pth").exists()
