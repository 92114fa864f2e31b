"""Checkpoints of nodes that share no directory: each keeps its part, and together they are one checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.torchrun import on_ranks

_MODULE = "support.rank_apart"
pytestmark = pytest.mark.slow


def test_each_node_keeps_what_its_ranks_wrote(tmp_path: Path) -> None:
    """No node has another's shards; each says that it is a part; what one needs of another's is handed on."""
    on_ranks(4, tmp_path, "saves_apart", "hands_on_what_is_needed", module=_MODULE)


@pytest.mark.parametrize("parallel", ["fsdp", "ddp"])
def test_a_run_goes_on_from_the_newest_that_all_nodes_have_together(tmp_path: Path, parallel: str) -> None:
    """Also when disks were swapped; never from one of which a part is lost or damaged."""
    layouts = (
        "own+own=newest",
        "swapped+swapped=newest",
        "all+none=newest",
        "own+lost=older",
        "bad+own=older",
    )
    on_ranks(4, tmp_path, ":".join(["goes_on_apart", parallel, *layouts]), module=_MODULE)


def test_what_no_node_has_is_told(tmp_path: Path) -> None:
    """A run whose parts don't join is refused, and is never begun afresh."""
    layouts = ("none+none=fresh", "own+older=older", "cut+own=older", "own+none=refused", "none+own=refused")
    on_ranks(4, tmp_path, ":".join(["goes_on_apart", "fsdp", *layouts]), module=_MODULE)
    for rank in range(4):
        told = (tmp_path / f"refused_{rank}.txt").read_text()
        assert "no node that is here has __" in told
        assert "TRAIN.RESUME" in told


def test_each_node_sends_its_part_and_gets_what_it_lost(tmp_path: Path) -> None:
    """The bucket has a whole checkpoint when the run ends; a node's lost part is fetched, and no other's."""
    (tmp_path / "bucket").mkdir()
    on_ranks(4, tmp_path, "copies_apart", module=_MODULE)
