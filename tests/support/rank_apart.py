"""What ranks of two nodes that share no directory do: each node keeps its part of a checkpoint."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError
from linnaeus.remote._rclone import RcloneRemote
from support.rank_process import main
from support.rank_run import RankRun, equal
from support.replacing import noting

NEWEST = "checkpoint_epoch_1_step_8.sharded"
OLDER = "checkpoint_epoch_0_step_4.sharded"


def goes_on_apart(directory: Path, parallel: str, *layouts: str) -> None:
    """A run is cut, parts of its checkpoints get lost or damaged, and it goes on from the newest whole one.

    Args:
        directory: Where all is.
        parallel: How ranks share the work.
        layouts: What each node has, as "node 0's+node 1's=what is gone on from".
    """
    rank = dist.get_rank()
    straight = RankRun(parallel)
    straight.train(directory / "straight")
    expected = straight.state()
    cut = RankRun(parallel)
    cut.train(
        directory / "cut" / f"node{rank // 2}",
        INTERVAL_STEPS=4,
        INTERVAL_EPOCHS=0,
        stop_after=9,
        FORMAT="sharded",
    )
    for layout in layouts:
        nodes, result = layout.split("=")
        place = directory / layout
        if rank == 0:
            for node, content in enumerate(nodes.split("+")):
                _lay_out(directory / "cut", place / f"node{node}", content, node)
        dist.barrier()
        run = RankRun(parallel, seed=77)
        ckpt = run.manager(place / f"node{rank // 2}", INTERVAL_EPOCHS=0, FORMAT="sharded")
        try:
            progress = ckpt.resume()
        except CheckpointInvalidError as error:
            (directory / f"refused_{rank}.txt").write_text(str(error))
            if result != "refused":
                raise
            continue
        came_from = None if progress.resumed_from is None else progress.resumed_from
        told = {None: "fresh", NEWEST: "newest", OLDER: "older"}[came_from and came_from.name]
        assert told == result, (layout, told)
        assert came_from is None or came_from.parent == place / f"node{rank // 2}"
        run.finish(progress.epoch)
        found = run.state()
        same = [equal(expected[key], found[key]) for key in expected]
        assert all(same) or result == "fresh", layout
        ckpt.close()


def _lay_out(cut: Path, node: Path, content: str, number: int) -> None:
    """Give a node what it had ("own"), or that with a change."""
    if content == "none":
        return
    source = cut / f"node{1 - number if content == 'swapped' else number}"
    shutil.copytree(source, node, symlinks=True)
    newest = node / NEWEST
    if content == "all":
        shutil.copytree(cut / f"node{1 - number}" / NEWEST, newest, dirs_exist_ok=True)
    elif content == "older":
        shutil.rmtree(newest)
    elif content == "lost":
        next(newest.glob("*.distcp")).unlink()
    elif content == "cut":
        shard = next(newest.glob("*.distcp"))
        shard.write_bytes(shard.read_bytes()[:-1])
    elif content == "bad":
        shard = next(newest.glob("*.distcp"))
        broken = bytearray(shard.read_bytes())
        broken[len(broken) // 2] ^= 1
        shard.write_bytes(broken)
    else:
        assert content in ("own", "swapped"), content


def saves_apart(directory: Path) -> None:
    """Each node has what its own ranks wrote, with the same metadata and commit file, and no more."""
    rank = dist.get_rank()
    mine = directory / "saved" / f"node{rank // 2}"
    RankRun("fsdp").train(mine, FORMAT="sharded", KEEP_LAST_N=1, KEEP_TOP_N=0, INTERVAL_STEPS=2)
    dist.barrier()
    names = {path.name for path in mine.iterdir() if not path.is_symlink()}
    assert names == {"checkpoint_epoch_2.sharded"}, names
    found = {path.name[:4] for path in (mine / "checkpoint_epoch_2.sharded").glob("*.distcp")}
    assert found == {f"__{one}_" for one in (rank // 2 * 2, rank // 2 * 2 + 1)}, found
    report = pth.verify(mine / "checkpoint_epoch_2.sharded")
    assert type(report.error).__name__ == "IncompleteCheckpointError"
    assert pth.verify(mine / "checkpoint_epoch_2.sharded", partly=True).ok


def hands_on_what_is_needed(directory: Path) -> None:
    """A node that came back with what it had is handed the first rank's small file, and no others' shards."""
    rank = dist.get_rank()
    mine = directory / f"node{rank // 2}"
    RankRun("fsdp", width=400).train(mine, FORMAT="sharded", INTERVAL_STEPS=0)
    path = mine / "checkpoint_epoch_2.sharded"
    before = {one.name for one in path.glob("*.distcp")}
    dist.barrier()
    again = RankRun("fsdp", seed=77, width=400)
    ckpt = again.manager(mine, FORMAT="sharded")
    assert ckpt.resume().epoch == 2
    ckpt.close()
    after = {one.name for one in path.glob("*.distcp")}
    if rank < 2:
        assert after == before
        assert sum(name.startswith("__0_") for name in before) == 2  # what all need, and its shards
    else:
        assert [name[:4] for name in after - before] == ["__0_"], (before, after)


def copies_apart(directory: Path) -> None:
    """Every node sends its part, and what a node lost comes from the bucket: that, and no more of it."""
    rank, run = dist.get_rank(), RankRun("fsdp")
    mine, there = directory / f"node{rank // 2}", directory / "bucket" / "run"
    bucket = {"ENABLED": True, "REMOTE": ":local:", "NAME": str(directory / "bucket"), "PATH_PREFIX": "run/"}
    run.train(mine, FORMAT="sharded", bucket=bucket)
    state = run.state()
    dist.barrier()
    for name in ("checkpoint_epoch_1.sharded", "checkpoint_epoch_2.sharded"):
        assert str(pth.verify(there / name).error) == "None"
        assert name in {one.name for one in mine.iterdir()}, [one.name for one in mine.iterdir()]
    for lost in ("node1", "node0", "node*"):
        dist.barrier()
        if rank == 0:
            for node in directory.glob(lost):
                shutil.rmtree(node)
        dist.barrier()
        fetched: list[str] = []
        with noting(RcloneRemote, "fetch", partial(_note, fetched)):
            again = RankRun("fsdp", seed=77)
            ckpt = again.manager(mine, FORMAT="sharded", bucket=bucket)
            progress = ckpt.resume()
        assert progress.resumed_from == mine / "checkpoint_epoch_2.sharded"
        assert equal(again.state(), state)
        ckpt.close()
        ranks = {name.rpartition("/")[2][:4] for name in fetched if name.endswith(".distcp")}
        # The first rank asks the bucket, for what its node lacks; where it has nothing, for the whole.
        assert ranks == ({"__2_", "__3_"} if rank == 0 and lost == "node1" else set()), ranks


def _note(names: list[str], _: Any, name: str, *__: Any, **___: Any) -> None:
    names.append(name)


SCENARIOS = {one.__name__: one for one in (saves_apart, goes_on_apart, hands_on_what_is_needed, copies_apart)}

if __name__ == "__main__":
    main(SCENARIOS)
