"""The random streams of all ranks as tables with a row for each, of which each rank writes its own."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from linnaeus.pth import Piece, Shares
from linnaeus.state._rng import capture_rng
from linnaeus.state._shards import tensors_in

RANKS = "ranks"


def stream_rows() -> dict[str, torch.Tensor]:
    """Return this process's streams as they are now, as tensors of fixed sizes."""
    return _to_rows(capture_rng())


def share_rng(rows: Mapping[str, torch.Tensor], shares: Shares, rank: int, world_size: int) -> dict[str, Any]:
    """Return the streams of all ranks, this one's rows being noted in `shares`."""
    tables = {name: _table(row, shares, rank, world_size) for name, row in rows.items()}
    return {RANKS: world_size, "streams": tables}


def _table(row: torch.Tensor, shares: Shares, rank: int, world_size: int) -> torch.Tensor:
    pieces = [Piece(rank * row.nbytes, row)]
    return shares.split((world_size, *row.shape), row.dtype, lambda: pieces)


def streams_read(saved: Mapping[str, Any], rank: int, world_size: int) -> Iterator[torch.Tensor]:
    """Yield what `own_rng` and `fresh_rng` look at, to be read before."""
    if RANKS not in saved:
        yield from tensors_in(saved)
    elif saved[RANKS] == world_size:
        yield from (table[rank : rank + 1] for table in saved["streams"].values())
    else:
        yield saved["streams"]["torch"][:1]


def own_rng(saved: Mapping[str, Any], rank: int, world_size: int) -> Mapping[str, Any] | None:
    """Return a rank's own streams out of what a checkpoint holds; None when another number wrote it."""
    ranks = saved.get(RANKS, 1)
    if ranks != world_size:
        return None
    if RANKS not in saved:
        return saved
    return _from_rows({name: table[rank].clone() for name, table in saved["streams"].items()})


def fresh_rng(saved: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return new streams for a rank of a job of another size, which follow from the saved and the rank."""
    first = saved["streams"]["torch"][0] if RANKS in saved else saved["torch"]
    seed = int(first[:8].clone().view(torch.int64).item()) % 2**31 * 100_003 + rank + 1
    before = capture_rng()
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    made = capture_rng()
    _put_back(before)
    return made


def _put_back(state: Mapping[str, Any]) -> None:
    from linnaeus.state._rng import restore_rng

    restore_rng(state, "")


def _to_rows(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return one process's streams as tensors of fixed sizes."""
    python = state["python"]
    gauss = python["gauss"]
    rows = {
        "torch": state["torch"],
        "python": torch.cat([torch.tensor([python["version"]]), python["words"]]),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
    }
    if "numpy" in state:
        numpy = state["numpy"]
        rows["numpy"] = torch.cat([torch.tensor([numpy["position"], numpy["has_gauss"]]), numpy["words"]])
        rows["numpy_gauss"] = torch.tensor([numpy["cached"]], dtype=torch.float64)
    if "cuda" in state:
        rows["cuda"] = torch.cuda.get_rng_state()  # a rank has one device
    return rows


def _from_rows(rows: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    version, *_ = rows["python"].tolist()
    has_gauss, gauss = rows["python_gauss"].tolist()
    state: dict[str, Any] = {
        "python": {"version": version, "words": rows["python"][1:], "gauss": gauss if has_gauss else None},
        "torch": rows["torch"],
    }
    if "numpy" in rows:
        position, has_cached, *_ = rows["numpy"].tolist()
        state["numpy"] = {
            "name": "MT19937",
            "words": rows["numpy"][2:],
            "position": position,
            "has_gauss": has_cached,
            "cached": rows["numpy_gauss"].item(),
        }
    if "cuda" in rows and torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        states[torch.cuda.current_device()] = rows["cuda"]
        state["cuda"] = states
    return state
