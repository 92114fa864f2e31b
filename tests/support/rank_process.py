"""What each rank of a test does: `torchrun -m support.rank_process SCENARIO DIRECTORY [WORD…]`."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import linnaeus
from linnaeus import pth
from linnaeus.distributed import join
from linnaeus.errors import CheckpointNotFoundError, InsufficientSpaceError, PeerFailedError, SaveError
from linnaeus.pth import _together
from linnaeus.resuming import choose_together
from linnaeus.saving import _saver
from linnaeus.state import RunParts, capture_share, own_share, restore
from linnaeus.training import train
from support import rank_beside
from support.rank_run import RankRun


def equal(a: Any, b: Any) -> bool:
    """Tell whether two states are the same bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


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


def survives_misfortunes(directory: Path) -> None:
    """What goes wrong on one rank is told on all, nothing is left behind, and the run can go on."""
    rank, run = dist.get_rank(), RankRun("fsdp")
    ckpt = run.manager(directory / "run")
    ckpt.save()
    first = sorted(entry.name for entry in (directory / "run").iterdir())

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with replaced(_together, "write_all", refuse, only=rank == 1):
        kind: type[Exception] = InsufficientSpaceError if rank == 1 else PeerFailedError
        expect(kind, ckpt.save, "disk became full on rank 1")
    odd = {"more": torch.ones(3)} if rank == 1 else {}
    group = join("test", deadline_seconds=20)
    save = partial(pth.save_together, odd, directory / "odd.pth", shares=pth.Shares(), ranks=group)
    expect(SaveError if rank == 0 else PeerFailedError, save, "ranks 1 hold other tensors")
    assert sorted(entry.name for entry in (directory / "run").iterdir()) == first
    choose = partial(choose_together, group, directory / "run", auto=True, named=None, resolve=Path)
    with replaced(Path, "is_file", lambda _: False, only=rank == 1):  # its node came back with an empty disk
        kind = CheckpointNotFoundError if rank == 1 else PeerFailedError
        expect(kind, choose, "rank 1 does not see what rank 0 sees")
    found = choose()
    assert found is not None
    assert found.path.name == "checkpoint_epoch_0.pth"
    ckpt.save()
    ckpt.close()


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
    try:
        ckpt.save()
    except PeerFailedError as error:
        (directory / f"met_{rank}.json").write_text(json.dumps(list(error.ranks)))
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


def trains(directory: Path, parallel: str, epochs: str) -> None:
    """The reference trainer, on all ranks."""
    (directory / f"pid_{dist.get_rank()}").write_text(str(os.getpid()))
    settings = [f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}/run", f"TRAIN.EPOCHS={epochs}"]
    settings += [f"TRAIN.PARALLEL={parallel}", "TRAIN.BATCH_SIZE=256"]
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    result = train(linnaeus.load_config(config, overrides=settings))
    (directory / f"done_{dist.get_rank()}.json").write_text(json.dumps(dict(result.metrics)))


@contextlib.contextmanager
def replaced(owner: Any, name: str, other: Any, *, only: bool) -> Iterator[None]:
    """Put something else in a place for the length of the block, on one rank only."""
    before = getattr(owner, name)
    if only:
        setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)


def expect(kind: type[Exception], act: Callable[[], object], text: str) -> None:
    """Check that an act raises such an error with such a text."""
    with pytest.raises(kind, match=text):
        act()


SCENARIOS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (resumes_exactly, takes_over, survives_misfortunes, dies, trains, keeps_every_placement)
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
