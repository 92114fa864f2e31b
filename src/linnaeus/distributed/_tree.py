"""The tree by which messages go up to rank 0: each rank hears few others, whatever the size of the job.

A rank's subtree is a block of neighbours, so that what they own in a file, in the order of ranks, can be
joined on the way. Pure.
"""

from __future__ import annotations

FAN_OUT = 16


def parent(rank: int, fan_out: int = FAN_OUT) -> int:
    """Return to whom a rank tells; rank 0, the root, is its own parent.

    Written to the base `fan_out`, it is the rank with its lowest digit other than zero cleared.
    """
    unit = 1
    while rank and rank // unit % fan_out == 0:
        unit *= fan_out
    return rank - rank // unit % fan_out * unit


def children(rank: int, world_size: int, fan_out: int = FAN_OUT) -> list[int]:
    """Return the ranks that tell this one, rising, each of which speaks for those from it up to the next."""
    found: list[int] = []
    unit = 1
    while unit < world_size and rank // unit % fan_out == 0:
        found += [child for n in range(1, fan_out) if (child := rank + n * unit) < world_size]
        unit *= fan_out
    return found
