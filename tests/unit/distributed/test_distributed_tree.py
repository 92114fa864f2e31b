"""The tree by which messages go up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from linnaeus.distributed import children, parent

_SIZES = st.integers(1, 300)
_FAN_OUTS = st.integers(2, 20)


@given(_SIZES, _FAN_OUTS)
def test_every_rank_tells_one_other(world_size: int, fan_out: int) -> None:
    """Children and parents are the same relation, and every rank but 0 has one parent."""
    told = {child: rank for rank in range(world_size) for child in children(rank, world_size, fan_out)}
    assert told == {rank: parent(rank, fan_out) for rank in range(1, world_size)}


@given(_SIZES, _FAN_OUTS)
def test_subtrees_are_blocks_of_neighbours(world_size: int, fan_out: int) -> None:
    """Walked depth first, the tree yields the ranks in their order."""

    def block(rank: int) -> list[int]:
        return [rank, *(one for child in children(rank, world_size, fan_out) for one in block(child))]

    assert block(0) == list(range(world_size))
