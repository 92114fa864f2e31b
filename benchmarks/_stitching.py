"""Stitching: a rehearsal from headers, and the load against reading the bytes that it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import linnaeus
from benchmarks._published import convnext, ropevit
from benchmarks._settings import Settings
from benchmarks._timing import Bar, Comparison, Sample, Way, take_turns
from linnaeus.models import build_model
from linnaeus.pth import describe

_ROOT = Path(__file__).resolve().parent.parent
_FILE_BYTES = 350_000_000
SIZES = ("sm", "lg")

Range = tuple[Path, int, int]
"""A file, the first byte, and the number of bytes."""


def prepare(root: Path, size: str, *, padded: bool = False) -> linnaeus.Config:
    """Write the two checkpoints of a size, and return the config that stitches them.

    Args:
        root: Where to.
        size: Of mFormer.
        padded: Let each file have 350 MB, with the optimizer of whoever trained it.
    """
    for name, state in (("conv.pth", convnext(size)), ("vit.pth", ropevit(size))):
        rest = max(0, _FILE_BYTES - sum(t.nbytes for t in state.values())) // 4 if padded else 0
        torch.save({"model": state, "optimizer": torch.zeros(rest)}, root / name)
    return config(root, size)


def config(root: Path, size: str) -> linnaeus.Config:
    """Return the config that stitches what `prepare` wrote."""
    model = {"NAME": f"mFormer_{size}", "HEADS": {"species": 1000}}
    named = {"PRETRAINED_CONVNEXT": str(root / "conv.pth"), "PRETRAINED_ROPEVIT": str(root / "vit.pth")}
    return linnaeus.Config.from_plain({"MODEL": model | named})


def rehearsing(settings: Settings) -> Iterator[Comparison]:
    """Tell from the headers of two files of 350 MB what a stitched model would get."""
    with settings.directory() as root:
        cfg = prepare(root, "sm", padded=True)
        model = _without_memory(cfg)
        dry = "dry run"
        ways = [
            Way(dry, partial(linnaeus.preview, cfg, model)),
            Way("dry run, and building the model", lambda: linnaeus.preview(cfg, _without_memory(cfg))),
        ]
        samples = take_turns(ways, settings.runs)
        title = "dry run of a recipe, two files of 350 MB"
        yield Comparison(title, "ms", samples, dry, [Bar(dry, at_most=100)])
        before = _bytes_read()
        linnaeus.preview(cfg, model)
        read = {dry: Sample(((_bytes_read() - before) / 1e6,))}
        yield Comparison(f"{title}: read", "MB", read, dry, [Bar(dry, at_most=1)])


def _without_memory(cfg: linnaeus.Config) -> nn.Module:
    with torch.device("meta"):
        return build_model(cfg)


def _bytes_read() -> int:
    line = Path("/proc/self/io").read_text(encoding="ascii").splitlines()[0]
    return int(line.removeprefix("rchar: "))


def stitching(settings: Settings) -> Iterator[Comparison]:
    """Fill a model that is there from two checkpoints, against reading what of them is used."""
    for size in SIZES:
        with settings.directory() as root:
            cfg = prepare(root, size)
            model = build_model(cfg)
            report = linnaeus.load_pretrained(cfg, model)
            used = _used(report, root)
            num_bytes = sum(size for _, _, size in used)
            buffer = torch.zeros(num_bytes, dtype=torch.uint8)
            cores = os.cpu_count() or 1
            limit, ours = f"pread of the used bytes, {cores} threads", "load_pretrained"
            ways = [
                Way(limit, partial(_pread, used, buffer, cores)),
                Way(ours, partial(linnaeus.load_pretrained, cfg, model)),
                Way("pread of the used bytes, 1 thread", partial(_pread, used, buffer, 1)),
                Way("torch.load of both files", partial(_torch, root)),
            ]
            title = f"stitched load of mFormer_{size}, {num_bytes / 1e6:.0f} MB, warm"
            samples = take_turns(ways, settings.runs)
            yield Comparison(title, "ms", samples, limit, [Bar(ours, limit, at_most=1.3)])
            yield _cold(root, size, cfg, model, used, buffer)
            state = sum(tensor.nbytes for tensor in model.state_dict().values())
            memory = {ours: Sample((_extra(root, size),)), "the model": Sample((state / 1e6,))}
            bars = [Bar(ours, "the model", at_most=0.1)]
            yield Comparison(f"{title}: extra peak memory", "MB", memory, "the model", bars)


def _cold(
    root: Path,
    size: str,
    cfg: linnaeus.Config,
    model: nn.Module,
    used: list[Range],
    buffer: torch.Tensor,
) -> Comparison:
    """Do both with files that are on the disk only."""
    limit, ours = "pread of the used bytes, from the disk", "load_pretrained, from the disk"
    forget = partial(_forget, root)
    ways = [
        Way(limit, partial(_pread, used, buffer, os.cpu_count() or 1), forget),
        Way(ours, partial(linnaeus.load_pretrained, cfg, model), forget),
    ]
    title = f"stitched load of mFormer_{size}, {buffer.nbytes / 1e6:.0f} MB, not in memory"
    return Comparison(title, "ms", take_turns(ways, 5), limit, [Bar(ours, limit, at_most=1.3)])


def _forget(root: Path) -> None:
    for name in ("conv.pth", "vit.pth"):
        descriptor = os.open(root / name, os.O_RDONLY)
        os.fsync(descriptor)  # dirty pages would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _used(report: Any, root: Path) -> list[Range]:
    """Return where the bytes of the tensors are that a load used."""
    files = {"convnext": root / "conv.pth", "ropevit": root / "vit.pth"}
    origins = {(a.source, f"model.{origin}") for a in report.arrivals if a.source for origin in a.origins}
    found = []
    for source, path in files.items():
        reader: Any = torch._C.PyTorchFileReader(str(path))
        for tensor in describe(path).tensors:
            if (source, tensor.name) in origins:
                found.append((path, reader.get_record_offset(str(tensor.record)), tensor.size_bytes))
    return found


def _pread(used: list[Range], buffer: torch.Tensor, num_threads: int) -> None:
    memory = memoryview(cast("Any", buffer.numpy()))
    pieces = []
    at = 0
    for path, start, num_bytes in used:
        pieces.append((path, start, memory[at : at + num_bytes]))
        at += num_bytes
    files = {path: os.open(path, os.O_RDONLY) for path in {path for path, _, _ in used}}
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(lambda piece: _read(files[piece[0]], piece[2], piece[1]), pieces))
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _read(descriptor: int, memory: memoryview, start: int) -> None:
    while memory:
        count = os.preadv(descriptor, [memory], start)
        memory, start = memory[count:], start + count


def _torch(root: Path) -> list[Any]:
    return [torch.load(root / name) for name in ("conv.pth", "vit.pth")]


def _extra(root: Path, size: str) -> float:
    command = [sys.executable, "-m", "benchmarks.child", "stitching", size, str(root), size]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["extra_bytes"]) / 1e6
