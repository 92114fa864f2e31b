"""Nodes that share no directory, one of whose ranks dies while all save: no node takes a half for a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.torchrun import on_ranks, ranks

_MODULE = "support.shard_process"
_DEATHS = ("2:writing", "0:commit file", "2:told", "2:end", "0:end")
pytestmark = pytest.mark.slow


def test_a_save_is_there_on_all_nodes_or_on_none(tmp_path: Path) -> None:
    """Whoever dies between the first byte and the last rename is named, and all go on from the one before."""
    for death in _DEATHS:
        victim = int(death[0])
        place = tmp_path / death
        place.mkdir()
        with ranks(4, place, f"dies:{death}:killed:2", module=_MODULE, per_node=2) as started:
            for rank, process in enumerate(started):
                if rank != victim:
                    assert process.wait(timeout=120) == 0, death
        named = [json.loads((place / f"met_{rank}.json").read_text()) for rank in range(4) if rank != victim]
        assert named == [[victim]] * 3, death
    # Rank 0's rename is the last: without it, what other nodes have renamed counts for nothing.
    assert (tmp_path / "0:end" / "node1" / "checkpoint_epoch_0_step_1.sharded").is_dir()
    on_ranks(
        4,
        tmp_path,
        ":".join(["goes_on", "2", *(death.replace(":", ",") for death in _DEATHS)]),
        module=_MODULE,
        per_node=2,
    )
