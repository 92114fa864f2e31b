"""What each rank of a test of sharded checkpoints does, as `support.rank_process` for single files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import linnaeus
from linnaeus import pth
from linnaeus.distributed import join
from linnaeus.errors import PeerFailedError
from linnaeus.pth import _save_sharded, _shard_files
from linnaeus.pth._place import Place
from linnaeus.saving import _saver
from linnaeus.state import RunParts, capture_share, own_share, restore, tensors_in
from support.processes import wait_until
from support.rank_process import equal, main
from support.rank_run import RankRun, local
from support.small_run import config


def resumes_exactly(directory: Path, parallel: str) -> None:
    """An interrupted run, continued by fresh objects, equals the uninterrupted one."""
    straight = RankRun(parallel)
    straight.train(directory / f"{parallel}_straight")
    expected = straight.state()
    RankRun(parallel).train(directory / parallel, INTERVAL_STEPS=4, stop_after=9, FORMAT="sharded")
    after = RankRun(parallel, seed=77)
    after.train(directory / parallel, INTERVAL_STEPS=4, FORMAT="sharded")
    found = after.state()
    different = [key for key in expected if not equal(expected[key], found[key])]
    assert not different, different
    whole = after.whole()
    if dist.get_rank() == 0:
        torch.save(whole, directory / f"{parallel}_whole.pt")


def takes_over(directory: Path, parallel: str, name: str) -> None:
    """Model and optimizer of a directory are taken over whole, whoever wrote it; and can be saved again."""
    run = RankRun(parallel, seed=78)
    settings = {"AUTO_RESUME": False, "RESUME": str(directory / name), "FORMAT": "sharded"}
    ckpt = run.manager(directory / f"again_{parallel}", **settings)
    ckpt.resume()
    whole = run.whole()
    expected = torch.load(directory / f"{name.split('/')[0]}_whole.pt", weights_only=True)
    different = [key for key in expected if not equal(expected[key], whole.get(key))]
    assert not different, different
    path = ckpt.save()
    ckpt.close()
    if dist.get_rank() == 0:
        assert pth.verify(path).error is None


def keeps_every_placement(directory: Path) -> None:
    """Rows, columns, two-dimensional meshes, replicas, uneven and empty shards: the directory has all."""
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    stream = torch.Generator().manual_seed(1)
    ways: list[Any] = [(line, [Shard(0)]), (line, [Shard(1)]), (line, [Replicate()])]
    ways += [(square, [Shard(a), Shard(b)]) for a in (0, 1) for b in (0, 1)]
    ways += [(square, [Replicate(), Shard(0)]), (square, [Shard(1), Replicate()])]
    shapes = [(10, 6), (3, 5), (2, 40_000), (1, 7)]
    whole = {f"{n}": torch.randn(s, generator=stream) for n, s in enumerate(shapes * len(ways))}
    holder = nn.Module()
    for number, (name, tensor) in enumerate(whole.items()):
        holder.register_buffer(name, distribute_tensor(tensor, *ways[number // len(shapes)]))
    parts, group = RunParts(model=holder), join("placements", deadline_seconds=30)
    state, shares = capture_share(parts, group)
    path = directory / "placed.sharded"
    pth.save_sharded(state, path, shares=shares, ranks=group)
    assert pth.verify(path).error is None
    loaded = pth.load(path)["model"]
    different = [name for name, tensor in whole.items() if not torch.equal(tensor, loaded[name])]
    assert not different, different
    before = {name: tensor.to_local().clone() for name, tensor in holder.state_dict().items()}
    for tensor in holder.state_dict().values():
        tensor.to_local().zero_()
    with pth.mapped_file(path) as source:
        source.ready(tensors_in(source.content["rng"]))
        own = own_share(parts, source.content, path.name, group.rank, group.world_size)
        source.ready(tensors_in(own))
        restore(parts, own, path.name, complete=False, source=source)
    for name, tensor in holder.state_dict().items():
        assert torch.equal(tensor.to_local(), before[name]), name


def reads_its_own_part(directory: Path, num_megabytes: str) -> None:
    """A rank that resumes a large sharded tensor holds its own part of it and no more."""
    rows = int(num_megabytes) << 8
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    holder = nn.Module()
    part = torch.full((rows // mesh.size(), 1024), float(dist.get_rank()))
    holder.register_buffer("large", torch.distributed.tensor.DTensor.from_local(part, mesh, [Shard(0)]))
    parts, group = RunParts(model=holder), join("large", deadline_seconds=60)
    state, shares = capture_share(parts, group)
    path = directory / "large.sharded"
    pth.save_sharded(state, path, shares=shares, ranks=group)
    part.zero_()
    before = _held()
    with pth.mapped_file(path) as source:
        source.ready(tensors_in(source.content["rng"]))
        own = own_share(parts, source.content, path.name, group.rank, group.world_size)
        source.ready(tensors_in(own))
        grown = _held() - before
        restore(parts, own, path.name, complete=False, source=source)
    assert bool((part == dist.get_rank()).all())
    assert grown < part.nbytes * 1.5 + (32 << 20), grown


def holds_no_copy(directory: Path) -> None:
    """A save beside training takes hardly any memory, and is of the instant at which it was begun."""
    torch.manual_seed(3)
    model: Any = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(8)))
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    cfg = config(directory / "run", EPOCHS=10**6, INTERVAL_STEPS=1, FORMAT="sharded")
    ckpt = linnaeus.CheckpointManager(cfg, model=model, optimizer=optimizer)
    for _ in range(2):  # the first takes what is kept for all others
        model(torch.randn(2, 2048)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        expected = [local(tensor) for tensor in model.parameters()]
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _held("VmRSS")
        ckpt.step()
        ckpt.wait()
        grown = _held("VmHWM") - before
    num_bytes = sum(t.nbytes for state in optimizer.state.values() for t in map(local, state.values()))
    assert num_bytes > (128 << 20) / dist.get_world_size()
    assert grown < 32 << 20, grown
    path = ckpt.last_saved
    assert path is not None
    loaded = pth.load(path)["model"]
    for name, mine in zip(model.state_dict(), expected, strict=True):
        rows = loaded[name].chunk(dist.get_world_size())[dist.get_rank()]
        assert torch.equal(rows, mine), name
    ckpt.close()


def _held(name: str = "RssAnon") -> int:
    """Return the memory of this process, by default that which is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def dies(directory: Path, victim: str, stage: str, how: str, per_node: str = "8") -> None:
    """One rank is killed or stopped at a stage of a save; the others write down what they met."""
    rank, run = dist.get_rank(), RankRun("fsdp", batch_size=12)
    node = f"node{rank // int(per_node)}"
    ckpt = run.manager(directory / node, DEADLINE_SECONDS=3.0, FORMAT="sharded")
    ckpt.save()
    ckpt.progress = ckpt.progress.after_step()
    if rank == int(victim):
        number = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how]
        owner, place = {
            "begin": (_save_sharded, "collection_paused"),
            "writing": (_shard_files.Writer, "write"),
            "metadata": (_shard_files.Writer, "finish"),
            "commit file": (_save_sharded, "compose_commit"),
            "told": (_save_sharded, "unpacked"),
            "end": (_saver, "commit_directory"),
        }[stage]
        setattr(owner, place, lambda *_, **__: os.kill(os.getpid(), number))
    elif rank // int(per_node) == int(victim) // int(per_node):
        # The victim makes its node's directory, and not whoever is faster.
        really = Place._made_for_node
        act: Any = lambda at, to: wait_until(to.is_symlink) or really(at, to)  # noqa: E731
        Place._made_for_node = act
    try:
        ckpt.save()
    except PeerFailedError as error:
        (directory / f"met_{rank}.json").write_text(json.dumps(list(error.ranks)))
    os._exit(0)  # torch would wait for the dead


def goes_on(directory: Path, per_node: str, *deaths: str) -> None:
    """After each of the deaths, all ranks go on from the checkpoint before; nothing half-written is left."""
    for death in deaths:
        node = directory / death.replace(",", ":") / f"node{dist.get_rank() // int(per_node)}"
        ckpt = RankRun("fsdp", batch_size=12).manager(node, FORMAT="sharded")
        progress = ckpt.resume()
        assert progress.resumed_from == node / "checkpoint_epoch_0.sharded"
        ckpt.close()
        dist.barrier()
        names = {entry.name for entry in node.iterdir() if not entry.is_symlink()}
        assert {name.removesuffix(".invalid") for name in names} <= {
            "checkpoint_epoch_0.sharded",
            "checkpoint_epoch_0_step_1.sharded",
        }, names


SCENARIOS = {
    one.__name__: one
    for one in (
        resumes_exactly,
        takes_over,
        keeps_every_placement,
        reads_its_own_part,
        holds_no_copy,
        dies,
        goes_on,
    )
}

if __name__ == "__main__":
    main(SCENARIOS)
