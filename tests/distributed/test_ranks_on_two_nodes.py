"""Sixteen real processes on two real network stacks ask for one name."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks._ranks_fetch import ask_on_two_nodes
from benchmarks.rank_fetch_process import ALONE, APART, EACH, NAME, PER_JOB, SHARED

from support.two_nodes import two_nodes

pytestmark = pytest.mark.slow


def test_the_bucket_serves_each_cache_once_or_the_job_once(tmp_path: Path) -> None:
    """Two downloads for two caches, one with PER_JOB or a shared cache, whatever the number of processes."""
    with two_nodes() as nodes:
        if isinstance(nodes, str):
            pytest.skip(f"no network namespaces here: {nodes}")
        seen = ask_on_two_nodes(nodes, tmp_path, 24 << 20, runs=1)
    data = (tmp_path / NAME).read_bytes()
    served = {name: values[0].bytes_served / len(data) for name, values in seen.items()}
    assert served == {ALONE: 1, APART: 2, EACH: 2, PER_JOB: 1, SHARED: 1}
    alone = seen[ALONE][0].num_requests
    assert all(values[0].num_requests <= served[name] * alone for name, values in seen.items())
    assert (tmp_path / "caches" / "shared" / NAME).read_bytes() == data
