"""One way of loading in a process of its own; prints how long it took and how much memory more.

The kernel's own high-water mark is set back right before, and read right after, through `/proc`.
`resource.ru_maxrss` would not do: a process inherits its parent's peak there.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import linnaeus
from benchmarks._loaders import FILLING, INFERENCE
from benchmarks._states import training
from benchmarks._steps import ImageSteps
from benchmarks._stitching import config
from linnaeus.models import build_model

_WARM_UP = "10 MB"


def main(kind: str, name: str, path: Path, size: str) -> None:
    """Do it once on something small, so that all is imported, and then measure."""
    if kind == "stitching":
        json.dump({"extra_bytes": _stitching(path, size)}, sys.stdout)
        return
    if kind == "beside":
        json.dump({"extra_bytes": beside(path, size)}, sys.stdout)
        return
    load = _inference if kind == "inference" else _filling
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        small = Path(directory) / "small.pth"
        run = training(_WARM_UP)
        linnaeus.save(run.state(), small)
        save_file(run.model.state_dict(), small.with_suffix(".safetensors"))
        load(name, small, _WARM_UP)
    seconds, extra_bytes = load(name, path, size)
    json.dump({"seconds": seconds, "extra_bytes": extra_bytes}, sys.stdout)


def _inference(name: str, path: Path, size: str) -> tuple[float, int]:
    return _measured(lambda: INFERENCE[name](path, size))


def _filling(name: str, path: Path, size: str) -> tuple[float, int]:
    run = training(size)
    return _measured(lambda: FILLING[name](path, run))


def beside(directory: Path, size: str) -> int:
    """Return by how much a save raises the peak of a training process."""
    run = training(size)
    steps = ImageSteps(run, batch=4)
    cfg = linnaeus.load_config(None, [f"ENV.OUTPUT.DIRS.CHECKPOINTS={directory}"])
    with linnaeus.CheckpointManager(cfg, model=run.model, optimizer=run.optimizer) as ckpt:
        ckpt.save()  # imports what saving needs
        steps.do(2)
        _, without = _measured(lambda: steps.do(2))
        ckpt._begin_saving()
        _, with_save = _measured(lambda: steps.do(2))
    return with_save - without


def _measured(act: Callable[[], object]) -> tuple[float, int]:
    before = _start()
    start = time.perf_counter()
    result = act()
    seconds, extra_bytes = time.perf_counter() - start, _peak() - before
    del result
    return seconds, extra_bytes


def _stitching(root: Path, size: str) -> int:
    cfg = config(root, size)
    with torch.device("meta"):
        linnaeus.preview(cfg, build_model(cfg))  # so that all is imported
    model = build_model(cfg)
    before = _start()
    linnaeus.load_pretrained(cfg, model)
    return _peak() - before


def _start() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up left would hide what comes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell the peak of a process's memory")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
