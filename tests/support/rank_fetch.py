"""What ranks of two nodes do in tests of names that they resolve together."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

import linnaeus
from linnaeus.distributed import join
from linnaeus.errors import LinnaeusError
from linnaeus.pth import _together
from linnaeus.remote import Journal
from linnaeus.resolving import _fetch, _passing_directory, _passing_file, resolve_together
from support.processes import wait_until
from support.rank_run import RankRun
from support.replacing import replaced

PLACES = {
    "fetch": (_fetch._Fetch, "run"),
    "give": (_passing_file.FileSource, "each"),
    "take": (_passing_file.FileArrival, "each"),
    "keep": (Journal, "keep"),
    "give of a directory": (_passing_directory.DirectorySource, "each"),
    "take of a directory": (_passing_directory.FilesArrival, "each"),
    "keep of a directory": (_passing_directory.FilesArrival, "_keep"),
}


def fetches(directory: Path, name: str, place: str = "", victim: str = "-1", how: str = "") -> None:
    """Resolve a name by `input.json`, a cache for every two ranks; one rank may meet with misfortune.

    Args:
        directory: Where `input.json` is, and each rank writes what it met.
        name: What to resolve.
        place: Where the misfortune strikes: of `PLACES`, in the second piece.
        victim: Which rank it strikes.
        how: "killed", "stopped", "full", or the link to the other node is "cut".
    """
    rank = dist.get_rank()
    settings = json.loads((directory / "input.json").read_text())
    cache = directory / f"node{rank // 2}"
    cfg = linnaeus.Config.from_plain({"ENV": {"INPUT": settings | {"CACHE_DIR": str(cache)}}})
    group = join("test", deadline_seconds=60, silence_seconds=2)
    owner, part = PLACES[place or "fetch"]
    struck = _misfortune(getattr(owner, part), how, directory)
    met: dict[str, Any] = {}
    with replaced(owner, part, struck, only=rank == int(victim)):
        try:
            met = {"path": str(resolve_together(name, cfg, group))}
        except LinnaeusError as error:
            met = _told(error)
    (directory / f"met_{rank}.json").write_text(json.dumps(met))
    if place:
        everybody = [directory / f"met_{other}.json" for other in range(dist.get_world_size())]
        if how == "cut":
            wait_until(lambda: all(path.exists() for path in everybody), seconds=60)
        os._exit(0)  # torch would wait for the dead


def wait_for_the_cut(directory: Path) -> None:
    """Say that this rank is in the middle of it, and wait until the link to the other node is cut."""
    (directory / "in_the_middle").touch()
    wait_until((directory / "cut").exists, seconds=60)


def saves_over_a_cut_link(directory: Path) -> None:
    """The link between the nodes is cut while a rank on the second writes its part."""
    rank, run = dist.get_rank(), RankRun("ddp")
    ckpt = run.manager(directory / "run", DEADLINE_SECONDS=3.0)
    ckpt.save()
    ckpt.progress = ckpt.progress.after_step()
    write_all, met = _together.write_all, dict[str, Any]()

    def waits(*arguments: Any) -> None:
        wait_for_the_cut(directory)
        write_all(*arguments)

    with replaced(_together, "write_all", waits, only=rank == 2):
        try:
            ckpt.save()
        except LinnaeusError as error:
            met = _told(error)
    (directory / f"met_{rank}.json").write_text(json.dumps(met))
    # Rank 0 holds the store, and stays, so that the others notice by themselves.
    wait_until(lambda: all((directory / f"met_{other}.json").exists() for other in range(4)), seconds=60)
    os._exit(0)


def _told(error: LinnaeusError) -> dict[str, Any]:
    return {"error": type(error).__name__, "text": str(error), "ranks": list(getattr(error, "ranks", []))}


def _misfortune(really: Callable[..., Any], how: str, directory: Path) -> Callable[..., Any]:
    def act(*arguments: Any) -> Any:
        if len(arguments) == 1 or arguments[-1] > 0:  # the second piece
            if how == "full":
                raise OSError(errno.ENOSPC, "No space left on device", "data")
            if how == "cut":
                wait_for_the_cut(directory)
                return really(*arguments)
            os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])
        return really(*arguments)

    return act
