"""How many store operations an agreement takes, counted rank by rank on a store that only counts."""

from __future__ import annotations

import pytest
from benchmarks.agreement import count_operations


@pytest.mark.parametrize("world_size", [64, 1024])
def test_operations_do_not_grow_with_the_job(world_size: int) -> None:
    """No rank, rank 0 included, does more than ten operations, and half of them no more than five."""
    counted = count_operations(world_size)
    assert max(counted) <= 10
    assert sorted(counted)[world_size // 2] <= 5
