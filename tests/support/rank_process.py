"""What each rank of a test does: `torchrun -m support.rank_process SCENARIO DIRECTORY [WORD…]`."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import linnaeus
from linnaeus import manager, pth
from linnaeus.distributed import join
from linnaeus.errors import PeerFailedError
from linnaeus.models import build_model
from linnaeus.pth import _together
from linnaeus.resolving import _fetch
from linnaeus.saving import _saver
from linnaeus.state import RunParts, capture_share, own_share, restore
from linnaeus.training import train
from support import rank_beside
from support.rank_fetch import fetches, saves_over_a_cut_link
from support.rank_misfortunes import survives_misfortunes
from support.rank_return import comes_back, copies, fails_to_copy
from support.rank_run import RankRun, equal
from support.replacing import noting


def resumes_exactly(directory: Path, parallel: str) -> None:
    """An interrupted run, continued by fresh objects, equals the uninterrupted one."""
    straight, before, after = RankRun(parallel), RankRun(parallel), None
    straight = RankRun(parallel)
    straight.train(directory / f"{parallel}_straight")
    expected = straight.state()
    before = RankRun(parallel)
    before.train(directory / parallel, INTERVAL_STEPS=4, stop_after=9)
    after = RankRun(parallel, seed=77)
    after.train(directory / parallel, INTERVAL_STEPS=4)
    found = after.state()
    different = [key for key in expected if not equal(expected[key], found[key])]
    assert not different, different
    whole = after.whole()
    if dist.get_rank() == 0:
        torch.save(whole, directory / f"{parallel}_whole.pt")


def takes_over(directory: Path, parallel: str, name: str) -> None:
    """Model and optimizer of a file are taken over whole, whoever wrote it; and can be saved again."""
    run = RankRun(parallel, seed=78)
    ckpt = run.manager(directory / f"again_{parallel}", AUTO_RESUME=False, RESUME=str(directory / name))
    ckpt.resume()
    whole = run.whole()
    expected = torch.load(directory / f"{name.split('/')[0]}_whole.pt", weights_only=True)
    different = [key for key in expected if not equal(expected[key], whole.get(key))]
    assert not different, different
    path = ckpt.save()
    ckpt.close()
    if dist.get_rank() == 0:
        assert pth.verify(path).error is None


def dies(directory: Path, victim: str, stage: str, how: str) -> None:
    """One rank is killed or stopped at a stage of a save; the others write down what they met."""
    rank, run = dist.get_rank(), RankRun("fsdp", batch_size=6)
    ckpt = run.manager(directory / "run", DEADLINE_SECONDS=3.0)
    ckpt.save()
    ckpt.progress = ckpt.progress.after_step()
    if rank == int(victim):
        number = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how]
        owner, place = _STAGES[stage]
        setattr(owner, place, lambda *_, **__: os.kill(os.getpid(), number))
    start = time.monotonic()
    try:
        ckpt.save()
    except PeerFailedError as error:
        (directory / f"met_{rank}.json").write_text(json.dumps(list(error.ranks)))
        (directory / f"took_{rank}.json").write_text(json.dumps(time.monotonic() - start))
    os._exit(0)  # torch would wait for the dead


# Where each stage of a save can be told.
_STAGES: dict[str, tuple[Any, str]] = {
    "begin": (_together, "archive"),
    "writing": (_together, "write_all"),
    "written": (_together, "fsync_file"),
    "end": (_saver, "commit"),
}


def keeps_every_placement(directory: Path) -> None:
    """Rows, columns, meshes of two dimensions, replicas, uneven and empty shards: the file has the whole."""
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    stream = torch.Generator().manual_seed(1)
    ways = [(line, [Shard(0)]), (line, [Shard(1)]), (line, [Replicate()])]
    ways += [(square, [Shard(a), Shard(b)]) for a in (0, 1) for b in (0, 1)]
    ways += [(square, [Replicate(), Shard(0)]), (square, [Shard(1), Replicate()])]
    shapes = [(10, 6), (3, 5), (2, 40_000), (1, 7)]
    whole = {f"{n}": torch.randn(s, generator=stream) for n, s in enumerate(shapes * len(ways))}
    placed = {
        name: distribute_tensor(tensor, *ways[number // len(shapes)])
        for number, (name, tensor) in enumerate(whole.items())
    }
    holder = nn.Module()
    for name, tensor in placed.items():
        holder.register_buffer(name, tensor)
    parts, group = RunParts(model=holder), join("placements", deadline_seconds=30)
    state, shares = capture_share(parts, group)
    pth.save_together(state, directory / "placed.pth", shares=shares, ranks=group)
    assert pth.verify(directory / "placed.pth").error is None
    loaded = torch.load(directory / "placed.pth", weights_only=True)["model"]
    different = [name for name, tensor in whole.items() if not torch.equal(tensor, loaded[name])]
    assert not different, different
    locals_before = {name: tensor.to_local().clone() for name, tensor in placed.items()}
    for tensor in placed.values():
        tensor.to_local().zero_()
    with pth.mapped_file(directory / "placed.pth") as source:
        own = own_share(parts, source.content, "placed.pth", group.rank, group.world_size)
        restore(parts, own, "placed.pth", complete=False, source=source)
    for name, tensor in holder.state_dict().items():
        assert torch.equal(tensor.to_local(), locals_before[name]), name


def trains(directory: Path, parallel: str, epochs: str, *more: str) -> None:
    """The reference trainer, on all ranks, with more settings."""
    (directory / f"pid_{dist.get_rank()}").write_text(str(os.getpid()))
    settings = [f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}/run", f"TRAIN.EPOCHS={epochs}"]
    settings += [f"TRAIN.PARALLEL={parallel}", "TRAIN.BATCH_SIZE=256", *more]
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    fetched: list[str] = []
    written: list[str] = []
    with (
        noting(_fetch._Fetch, "run", lambda fetch: fetched.append(fetch.name)),
        noting(manager, "write_report", lambda where, _: written.append(str(where))),
    ):
        result = train(linnaeus.load_config(config, overrides=settings))
    (directory / f"done_{dist.get_rank()}.json").write_text(json.dumps(dict(result.metrics)))
    coverage = {one.name: one.coverage for one in result.report.sources} if result.report else {}
    noted = {"fetched": fetched, "written": written, "coverage": coverage}
    (directory / f"noted_{dist.get_rank()}.json").write_text(json.dumps(noted))


def trains_from(directory: Path, parallel: str, epochs: str, pretrained: str) -> None:
    """Pretrained weights come from `bucket`, and each node has a cache of its own."""
    settings = [
        "TRAIN.LR=1.0e-12",
        f"MODEL.PRETRAINED={pretrained}",
        f"ENV.INPUT.CACHE_DIR={directory}/cache",
    ]
    settings += ["ENV.INPUT.BUCKET.ENABLED=true", "ENV.INPUT.BUCKET.REMOTE=:local:"]
    trains(directory, parallel, epochs, *settings, f"ENV.INPUT.BUCKET.NAME={directory}/bucket")


def loads_pretrained(directory: Path) -> None:
    """A sharded model gets from the files what a whole one gets: stitched, adapted, class by class."""
    cfg = linnaeus.load_config(directory / "exp.yaml")
    torch.manual_seed(dist.get_rank())
    whole, sharded = build_model(cfg), build_model(cfg)
    sharded.load_state_dict(whole.state_dict())
    report = linnaeus.load_pretrained(cfg, whole)
    for block in sharded.blocks:
        fully_shard(block)
    fully_shard(sharded)
    assert linnaeus.load_pretrained(cfg, sharded).arrivals == report.arrivals
    expected = whole.state_dict()
    # What stays fresh differs from rank to rank, each having filled its model by itself.
    filled = {a.name for a in report.arrivals if a.status != "fresh" and a.num_filled is None}
    for name, tensor in sharded.state_dict().items():
        full = tensor.full_tensor()
        assert name not in filled or torch.equal(full, expected[name]), name
    ours, mapped = sharded.heads["species"].weight, [0, 2, 4]
    assert torch.equal(ours.full_tensor()[mapped], expected["heads.species.weight"][mapped])


def loads_into_every_placement(directory: Path) -> None:
    """However a model's tensors are distributed, each rank gets its part, and reads little more."""
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    ways: list[Any] = [(line, [Shard(0)]), (line, [Shard(1)]), (line, [Replicate()])]
    ways += [(square, [Shard(a), Shard(b)]) for a in (0, 1) for b in (0, 1)]
    for name in ("plain.pth", "half.pth", "turned.pth"):
        state = torch.load(directory / name, weights_only=True)
        for mesh, placements in ways:
            model = nn.Module()
            for key, tensor in state.items():
                empty = distribute_tensor(torch.zeros(tensor.shape), mesh, placements)
                model.register_parameter(key, nn.Parameter(empty))
            before = bytes_read()
            cfg = linnaeus.Config.from_plain({"MODEL": {"PRETRAINED": str(directory / name)}})
            linnaeus.load_pretrained(cfg, model)
            read = bytes_read() - before
            for key, tensor in model.state_dict().items():
                assert torch.equal(tensor.full_tensor(), state[key].float()), (name, key, placements)
            if name == "half.pth" and placements == [Shard(0)]:  # the first file paid for imports
                parts = sum(-(-t.shape[0] // 4) * t[0].numel() * 2 for t in state.values())
                assert read < parts + 50_000, (read, parts)


def bytes_read() -> int:
    """Return how many bytes this process has asked files for."""
    line = Path("/proc/self/io").read_text(encoding="ascii").splitlines()[0]
    return int(line.removeprefix("rchar: "))


SCENARIOS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        resumes_exactly,
        takes_over,
        survives_misfortunes,
        dies,
        comes_back,
        copies,
        fails_to_copy,
        fetches,
        saves_over_a_cut_link,
        trains,
        trains_from,
        keeps_every_placement,
        loads_pretrained,
        loads_into_every_placement,
    )
} | rank_beside.SCENARIOS


def main(scenarios: Mapping[str, Callable[..., None]] = SCENARIOS) -> None:
    """Run each of the scenarios that are named, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        for spelled in sys.argv[2:]:
            name, *words = spelled.split(":")
            scenarios[name](Path(sys.argv[1]), *words)
            gc.collect()  # what a scenario made of the process group must not outlive it
        dist.barrier()
    finally:
        dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch may abort where a process group's threads outlive the interpreter


if __name__ == "__main__":
    main()
