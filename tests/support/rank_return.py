"""What ranks of two nodes with a disk each do when nodes come back with other disks than they had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from linnaeus.errors import CheckpointInvalidError, RemoteError
from linnaeus.resuming import _bucket
from linnaeus.saving._copies import Copies
from support.rank_run import RankRun, equal
from support.replacing import noting

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


def copies(directory: Path, megabytes_per_second: str = "0") -> None:
    """A run is copied to its bucket; each rank notes what is there when `close` returns, and who copied."""
    rank, run = dist.get_rank(), RankRun("ddp", width=64)
    bucket = _place(directory, MAX_MEGABYTES_PER_SECOND=float(megabytes_per_second))
    sent: list[str] = []
    with noting(Copies, "send", lambda _, __, checkpoint, ___: sent.append(checkpoint.name)):
        run.train(directory / "run", bucket=bucket)
    there = sorted(path.name for path in (directory / "bucket").rglob("*.pth"))
    (directory / f"there_{rank}.json").write_text(json.dumps([there, sent]))
    state = run.state()
    if rank == 0:
        shutil.rmtree(directory / "run")
    dist.barrier()
    fetched: list[str] = []
    with noting(_bucket, "fetch_from", lambda _, name, *__, **___: fetched.append(name)):
        again = RankRun("ddp", seed=77, width=64)
        ckpt = again.manager(directory / f"node{rank // 2}", bucket=bucket)
        progress = ckpt.resume()
    assert progress.resumed_from == directory / f"node{rank // 2}" / "checkpoint_epoch_2.pth"
    assert fetched == (["checkpoint_epoch_2.pth"] if rank == 0 else [])
    assert equal(again.state(), state)
    ckpt.close()


def fails_to_copy(directory: Path) -> None:
    """The bucket can't be reached: every rank hears so when the run ends."""
    bucket = _place(directory, REMOTE="nowhere:", CLOSE_TIMEOUT_SECONDS=1.0)
    with pytest.raises(RemoteError, match="linnaeus push"):
        RankRun("ddp").train(directory / "run", AUTO_RESUME=False, bucket=bucket)


def _place(directory: Path, **changes: Any) -> dict[str, Any]:
    place = {"ENABLED": True, "REMOTE": ":local:", "NAME": str(directory / "bucket"), "PATH_PREFIX": "run/"}
    return place | {"RETRIES": 0} | changes


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
