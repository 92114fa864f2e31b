"""What goes wrong on one of several ranks, for both forms of a checkpoint."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from linnaeus import pth
from linnaeus.distributed import join
from linnaeus.errors import CheckpointNotFoundError, InsufficientSpaceError, PeerFailedError, SaveError
from linnaeus.pth import _shard_files, _together
from linnaeus.resuming import _choose, choose_together
from support.rank_run import RankRun
from support.replacing import replaced


def survives_misfortunes(directory: Path, form: str) -> None:
    """What goes wrong on one rank is told on all, nothing is left behind, and the run can go on."""
    rank, run = dist.get_rank(), RankRun("fsdp")
    ckpt = run.manager(directory / "run", FORMAT=form)
    ckpt.save()
    first = _names(directory / "run")
    for number, kind, text in _REFUSALS:
        owner, place, refusing = _WRITES[form]
        with replaced(owner, place, refusing(number), only=rank == 1):
            expect(kind if rank == 1 else PeerFailedError, ckpt.save, text)
    odd = {"more": torch.ones(3)} if rank == 1 else {}
    group = join("test", deadline_seconds=20)
    save_all = pth.save_sharded if form == "sharded" else pth.save_together
    save = partial(save_all, odd, directory / f"odd.{form}", shares=pth.Shares(), ranks=group)
    expect(SaveError if rank == 0 else PeerFailedError, save, "ranks 1 hold other tensors")
    assert _names(directory / "run") == first
    assert _names(directory, "*odd*") == []
    choose = partial(choose_together, group, directory / "run", auto=True, named=None, resolve=Path)
    with replaced(Path, "exists", lambda _: False, only=rank == 1):  # its node came back with an empty disk
        kind = CheckpointNotFoundError if rank == 1 else PeerFailedError
        expect(kind, choose, "rank 1 does not see what rank 0 sees")
    ckpt.progress = ckpt.progress.after_step()
    ckpt.save()
    listed = _choose.list_checkpoints
    for late, newest in ((1, "checkpoint_epoch_0_step_1"), (0, "checkpoint_epoch_0")):
        # A network filesystem shows one rank last minute's directory: what rank 0 sees counts, for all.
        with replaced(_choose, "list_checkpoints", lambda place: listed(place)[1:], only=rank == late):
            found = choose()
        assert found is not None
        assert found.path.name == f"{newest}.{form}"
    assert ckpt.resume().step == 1
    ckpt.close()


def _names(directory: Path, pattern: str = "*") -> list[str]:
    dist.barrier()
    found = sorted(entry.name for entry in directory.glob(pattern))
    dist.barrier()
    return found


def expect(kind: type[Exception], act: Callable[[], object], text: str) -> None:
    """Check that an act raises such an error with such a text."""
    with pytest.raises(kind, match=text):
        act()


_REFUSALS: list[tuple[int, type[Exception], str]] = [
    (errno.ENOSPC, InsufficientSpaceError, "disk became full on rank 1"),
    (errno.EIO, SaveError, "Input/output error"),
]


def _refusing(number: int) -> Callable[..., Any]:
    def refuse(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def _refusing_files(number: int) -> Any:
    class Refusing(io.FileIO):
        """A file into which nothing can be written."""

        write = _refusing(number)

    return SimpleNamespace(FileIO=Refusing)


# Where each form writes, and what refuses to.
_WRITES: dict[str, tuple[Any, str, Callable[[int], Any]]] = {
    "pth": (_together, "write_all", _refusing),
    "sharded": (_shard_files, "io", _refusing_files),
}
