"""What ranks of two nodes with a disk each do when nodes come back with other disks than they had."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist

from linnaeus.errors import CheckpointInvalidError
from support.rank_run import RankRun, equal

NEWEST = "checkpoint_epoch_1_step_8.pth"


def comes_back(directory: Path, parallel: str, *layouts: str) -> None:
    """A run is cut, its files come to lie otherwise on the nodes' disks, and it goes on; or is refused.

    Args:
        directory: Where all is.
        parallel: How ranks share the work.
        layouts: What each node has, as "node 0's+node 1's": "all", "none", "older" files, or "bad" ones.
    """
    rank = dist.get_rank()
    straight = RankRun(parallel)
    straight.train(directory / "straight")
    expected = straight.state()
    cut = RankRun(parallel)
    cut.train(directory / "cut", INTERVAL_STEPS=4, stop_after=9)
    for layout in layouts:
        place = directory / layout
        if rank == 0:
            for node, content in enumerate(layout.split("+")):
                _lay_out(directory / "cut", place / f"node{node}", content)
        dist.barrier()
        run = RankRun(parallel, seed=77)
        ckpt = run.manager(place / f"node{rank // 2}", INTERVAL_EPOCHS=0)
        try:
            progress = ckpt.resume()
        except CheckpointInvalidError:
            assert layout in ("none+bad", "bad+none"), layout
            continue
        assert (progress.resumed_from is None) == (layout == "none+none"), layout
        if progress.resumed_from is not None:
            assert progress.resumed_from == place / f"node{rank // 2}" / NEWEST
            run.finish(progress.epoch)
            found = run.state()
            assert not [key for key in expected if not equal(expected[key], found[key])], layout
        ckpt.close()


def _lay_out(source: Path, node: Path, content: str) -> None:
    if content == "none":
        return
    shutil.copytree(source, node, symlinks=True)
    if content == "older":
        (node / NEWEST).unlink()
    if content == "bad":
        for path in node.glob("checkpoint*.pth"):
            broken = bytearray(path.read_bytes())
            broken[1000] ^= 1  # of a tensor; size and end stay as they are
            path.write_bytes(broken)
