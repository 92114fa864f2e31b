"""Copying a run to its bucket: what it costs training, and what becomes of it when much fails."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import psutil
import torch

import linnaeus
from benchmarks._beside import manager_of
from benchmarks._bucket import BUCKET, Server, server_apart
from benchmarks._settings import MAIN, Settings
from benchmarks._states import many_small, training
from benchmarks._steps import ImageSteps
from benchmarks._timing import Bar, Comparison, Sample
from linnaeus.config import OutputBucketConfig
from linnaeus.remote import open_in_background
from linnaeus.saving import Mirror, Retention
from linnaeus.saving._copies import Copies

_PLACE = "runs/bench/"
_MEGABYTES_PER_SECOND = 50
_NUM_UPLOADS = 50
_BATCH = 2
_NUM_PAIRS = 12
_CLOSE_SECONDS = 600.0
BESIDE, ALONE = "while an upload runs", "while none runs"


def beside_training(settings: Settings) -> Iterator[Comparison]:
    """Time steps of training while the checkpoint just saved is copied, capped, and while nothing is.

    The server has a core to itself, since a bucket is on another machine; training and what copies share the
    others. Whatever else runs on this machine would be louder than what is looked for, so steps take turns:
    for each with the copying there is one for which it is held.
    """
    cores = sorted(os.sched_getaffinity(0))
    num_threads = torch.get_num_threads()
    with settings.directory() as root, server_apart(core=cores[-1]) as server:
        os.sched_setaffinity(0, cores[:-1] or cores)
        torch.set_num_threads(max(1, len(cores) - 1))
        try:
            yield _beside_training(settings, root, server)
        finally:
            os.sched_setaffinity(0, cores)
            torch.set_num_threads(num_threads)


def _beside_training(settings: Settings, root: Path, server: Server) -> Comparison:
    size = MAIN if MAIN in settings.sizes else settings.sizes[0]
    run = training(size)
    steps = ImageSteps(run, batch=_BATCH if size == MAIN else 1)
    steps.do(2)
    seen: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    ckpt = manager_of(run, root / "run", *_copied(server))
    for _ in range(settings.runs):
        ckpt.save()
        os.sync()  # what the save left to be written is no part of the copying
        _take_turns(ckpt, steps, seen)
    ckpt.close()
    samples = {name: Sample(tuple(values)) for name, values in seen.items()}
    bars = [Bar(BESIDE, ALONE, at_most=1.03)] if size == MAIN else []
    title = f"a real step, {size} copied beside it, at most {_MEGABYTES_PER_SECOND} MB/s"
    return Comparison(title, "ms", samples, ALONE, bars)


def _take_turns(ckpt: linnaeus.CheckpointManager, steps: ImageSteps, seen: dict[str, list[float]]) -> None:
    """Do pairs of steps while the copying lasts, at most so many; that in which it ends does not count."""
    for _ in range(_NUM_PAIRS):
        with _held():
            alone = _timed(steps)
        beside = _timed(steps)
        if _is_copied(ckpt):
            return
        seen[ALONE].append(alone)
        seen[BESIDE].append(beside)
    while not _is_copied(ckpt):
        time.sleep(0.05)


@contextmanager
def _held() -> Iterator[None]:
    """Stop what copies, for the length of a block."""
    copying = psutil.Process().children()
    copying = [child for child in copying if child.name() == "rclone"]
    for child in copying:
        child.suspend()
    try:
        yield
    finally:
        for child in copying:
            child.resume()


def _copied(server: Server) -> list[str]:
    plain = {
        "ENABLED": True,
        "NAME": BUCKET,
        "PATH_PREFIX": _PLACE,
        "ENDPOINT": server.bucket.ENDPOINT,
        "MAX_MEGABYTES_PER_SECOND": _MEGABYTES_PER_SECOND,
        "KEEP_LAST_N": 1,
    }
    return [f"ENV.OUTPUT.BUCKET.{key}={value}" for key, value in plain.items()]


def _mirror(ckpt: linnaeus.CheckpointManager) -> Mirror:
    return cast("Mirror", ckpt._mirror)


def _is_copied(ckpt: linnaeus.CheckpointManager) -> bool:
    mirror = _mirror(ckpt)
    return mirror._settled >= mirror._noticed


def _timed(steps: ImageSteps) -> float:
    started = time.perf_counter()
    steps.do(1)
    return (time.perf_counter() - started) * 1e3


def under_faults(settings: Settings) -> Iterator[Comparison]:
    """Send 50 checkpoints while a tenth of all requests is refused, cut, stalled, or its answer lost."""
    with settings.directory() as root, server_apart() as server:
        for epoch in range(1, _NUM_UPLOADS + 1):
            about = {"epoch": epoch, "step": epoch, "step_in_epoch": 0, "run": "bench"}
            linnaeus.save(many_small(50 + epoch), root / f"checkpoint_epoch_{epoch}.pth", about=about)
        operations = ("upload", "list", "get_upload_url", "head", "list_buckets", "list_versions")
        server.ask("fault_at_random", 0.1, (503, "cut", "stall", "lost"), operations)
        bucket = OutputBucketConfig(
            NAME=BUCKET, PATH_PREFIX=_PLACE, ENDPOINT=server.bucket.ENDPOINT, IDLE_TIMEOUT_SECONDS=2.0
        )
        copies = Copies(root, open_in_background(bucket), Retention(0, 0), lambda: "bench")
        started = time.monotonic()
        with Mirror(copies, bucket, close_seconds=_CLOSE_SECONDS, retry_seconds=1.0) as mirror:
            mirror.notice()
        seconds = time.monotonic() - started
        samples = _account_of(server, root)
    bars = [Bar(name, at_most=0) for name in samples if name != "asked for"]
    title = f"{_NUM_UPLOADS} uploads, a tenth of all requests failing, done in {seconds:.0f} s"
    yield Comparison(title, "uploads", samples, "asked for", bars)


def _account_of(server: Server, root: Path) -> dict[str, Sample]:
    whole = {_PLACE + path.name: _sha1(path) for path in root.glob("*.pth")}
    there, ever = server.ask("versions_there"), server.ask("stored", BUCKET)
    counted = Counter(name for name, _ in there)
    found = {
        "missing": sum((name, sha1) not in there for name, sha1 in whole.items()),
        "stored more than once": sum(count > 1 for count in counted.values()),
        "seen before whole": sum(whole.get(name) != sha1 for name, sha1 in ever),
    }
    return {name: Sample((float(count),)) for name, count in {"asked for": len(whole), **found}.items()}


def _sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
