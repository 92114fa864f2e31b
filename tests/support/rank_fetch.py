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
from linnaeus.remote import Journal
from linnaeus.resolving import _fetch, _passing, resolve_together
from support.replacing import replaced

PLACES = {
    "fetch": (_fetch._Fetch, "run"),
    "give": (_passing._Source, "each"),
    "take": (_passing._Arrival, "each"),
    "keep": (Journal, "keep"),
}


def fetches(directory: Path, name: str, place: str = "", victim: str = "-1", how: str = "") -> None:
    """Resolve a name by `input.json`, a cache for every two ranks; one rank may meet with misfortune.

    Args:
        directory: Where `input.json` is, and each rank writes what it met.
        name: What to resolve.
        place: Where the misfortune strikes: of `PLACES`, in the second piece.
        victim: Which rank it strikes.
        how: "killed", "stopped" or "full".
    """
    rank = dist.get_rank()
    settings = json.loads((directory / "input.json").read_text())
    cache = directory / f"node{rank // 2}"
    cfg = linnaeus.Config.from_plain({"ENV": {"INPUT": settings | {"CACHE_DIR": str(cache)}}})
    group = join("test", deadline_seconds=60, silence_seconds=2)
    owner, part = PLACES[place or "fetch"]
    struck = _misfortune(getattr(owner, part), how)
    met: dict[str, Any] = {}
    with replaced(owner, part, struck, only=rank == int(victim)):
        try:
            met = {"path": str(resolve_together(name, cfg, group))}
        except LinnaeusError as error:
            met = {"error": type(error).__name__, "text": str(error), "ranks": getattr(error, "ranks", [])}
    (directory / f"met_{rank}.json").write_text(json.dumps(met))
    if place:
        os._exit(0)  # torch would wait for the dead


def _misfortune(really: Callable[..., Any], how: str) -> Callable[..., Any]:
    def act(*arguments: Any) -> Any:
        if len(arguments) == 1 or arguments[-1] > 0:  # the second piece
            if how == "full":
                raise OSError(errno.ENOSPC, "No space left on device", "data")
            os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])
        return really(*arguments)

    return act
