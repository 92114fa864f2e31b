"""A bucket on loopback: downloads against rclone alone, streams, what a kill costs, choosing what to resume.

The server runs in a process of its own, so that it does not share an interpreter with what is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import linnaeus
from benchmarks._settings import Settings
from benchmarks._states import training
from benchmarks._timing import Bar, Comparison, Sample, Way, take_turns
from linnaeus.config import BucketConfig
from linnaeus.remote import open_remote
from linnaeus.resolving import describe_there, resolve_in

_TESTS = Path(__file__).resolve().parent.parent / "tests"
BUCKET, PREFIX = "bench", "modelZoo/"
_GIBIBYTE = 1 << 30
_STREAMED_BYTES = 40_000_000
_STREAMED_RATE = 5e6
_KILLED_BYTES = 256 << 20


def _serve(pipe: Connection, core: int | None, address: str) -> None:
    """Run the server of the tests, and do what is asked of it until the pipe closes."""
    if core is not None:
        os.sched_setaffinity(0, [core])
    sys.path.insert(0, str(_TESTS))
    make_server = import_module("support.b2_server").B2Server
    with make_server(buckets=[BUCKET], address=address) as server:
        pipe.send((server.endpoint, server.env()))
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            if name == "put":
                server.put(BUCKET, PREFIX + arguments[0], Path(arguments[1]).read_bytes())
                pipe.send(None)
            elif name == "versions_there":
                pipe.send(server.all_versions(BUCKET))
            elif name == "fault_at_random":
                pipe.send(server.fault_at_random(*arguments, seed=1))
            elif name == "counts":
                pipe.send((len(server.requests), sum(record.bytes_sent for record in server.requests)))
            else:
                pipe.send(getattr(server, name)(*arguments))


class Server:
    """The server of the tests, in a process of its own."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        endpoint, credentials = pipe.recv()
        os.environ.update(credentials)
        self.bucket = BucketConfig(ENABLED=True, NAME=BUCKET, PATH_PREFIX=PREFIX, ENDPOINT=endpoint)

    def ask(self, name: str, *arguments: object) -> Any:
        """Call a method of it, or one of a few acts of this file, and return what it returns."""
        self._pipe.send((name, arguments))
        return self._pipe.recv()


@contextmanager
def server_apart(*, core: int | None = None, address: str = "127.0.0.1") -> Iterator[Server]:
    """Run a server in a process of its own, and on a core of its own if there is one for it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, core, address), daemon=True)
    process.start()
    try:
        yield Server(ours)
    finally:
        ours.close()
        process.terminate()
        process.join()


def _checkpoint(path: Path, size_bytes: int) -> Path:
    noise = torch.randn(size_bytes // 4, generator=torch.Generator().manual_seed(0))
    linnaeus.save({"model": {"w": noise}}, path)
    return path


def _fetch(cache: Path, bucket: BucketConfig, name: str) -> None:
    resolve_in(name, str(cache), bucket)


def _forget(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def downloads(settings: Settings) -> Iterator[Comparison]:
    """Fetch 1 GiB, verified and durable, against rclone's own command and an fsync."""
    with settings.directory() as root, server_apart() as server:
        server.ask("put", "x.pth", str(_checkpoint(root / "made.pth", _GIBIBYTE)))
        (root / "made.pth").unlink()
        cache, alone = root / "cache", root / "alone.pth"
        ways = [
            Way(
                f"rclone, {n} streams, fsync",
                partial(_rclone, server.bucket, alone, n),
                partial(_forget, alone),
            )
            for n in (1, 4)
        ]
        ours = Way(
            "linnaeus", partial(_fetch, cache, server.bucket, "x.pth"), partial(_forget, cache / "x.pth")
        )
        samples = take_turns([*ways, ours], settings.runs)
    best = min((way.name for way in ways), key=lambda name: samples[name].median)
    bars = [Bar("linnaeus", best, at_most=1.10)]
    yield Comparison("download of 1 GiB, verified and durable", "ms", samples, best, bars)


def _rclone(bucket: BucketConfig, target: Path, num_streams: int) -> None:
    program = Path(sys.executable).with_name("rclone")
    settings = {"TYPE": "b2", "ENDPOINT": str(bucket.ENDPOINT)}
    settings |= {"ACCOUNT": os.environ["B2_APPLICATION_KEY_ID"], "KEY": os.environ["B2_APPLICATION_KEY"]}
    environment = {f"RCLONE_CONFIG_BENCH_{key}": value for key, value in settings.items()}
    source = f"bench:{BUCKET}/{PREFIX}x.pth"
    arguments = [str(program), "copyto", source, str(target), "--config="]
    arguments.append(f"--multi-thread-streams={0 if num_streams == 1 else num_streams}")
    subprocess.run(arguments, env=os.environ | environment, check=True)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def streams(settings: Settings) -> Iterator[Comparison]:
    """Fetch 40 MB over connections of 5 MB/s each."""
    with settings.directory() as root, server_apart() as server:
        server.ask("put", "x.pth", str(_checkpoint(root / "made.pth", _STREAMED_BYTES)))
        server.ask("limit_rate", _STREAMED_RATE)
        cache = root / "cache"
        ways = [
            Way(
                f"{n} streams",
                partial(_fetch, cache, server.bucket.model_copy(update={"STREAMS": n}), "x.pth"),
                partial(_forget, cache / "x.pth"),
            )
            for n in (1, 4)
        ]
        samples = take_turns(ways, min(settings.runs, 2))
    bars = [Bar("4 streams", "1 streams", at_most=0.35)]
    yield Comparison("40 MB at 5 MB/s a connection", "ms", samples, "1 streams", bars)


_CHILD = """
import sys
from linnaeus.config import BucketConfig
from linnaeus.resolving import resolve_in
resolve_in("x.pth", sys.argv[1], BucketConfig.model_validate_json(sys.argv[2]))
"""


def kills(settings: Settings) -> Iterator[Comparison]:
    """Kill the downloader at a tenth, a half and nine tenths, start again, and count what was served."""
    with settings.directory() as root, server_apart() as server:
        server.ask("put", "x.pth", str(_checkpoint(root / "made.pth", _KILLED_BYTES)))
        size = (root / "made.pth").stat().st_size
        server.ask("limit_rate", 50e6)
        samples = {"the file": Sample((1.0,))}
        for share in (0.1, 0.5, 0.9):
            server.ask("reset_counts")
            served = _killed(server, root / f"cache-{share}", share * size)
            samples[f"killed at {share:.0%}"] = Sample((served / size,))
    bars = [Bar(name, at_most=1.05) for name in samples if name != "the file"]
    yield Comparison("bytes served when killed and started again", "x file", samples, "the file", bars)


def _killed(server: Server, cache: Path, at_bytes: float) -> int:
    plain = server.bucket.model_dump_json(exclude={"APP_KEY_ID", "APP_KEY"})
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(cache), plain])
    while server.ask("bytes_served", f"{PREFIX}x.pth") < at_bytes and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    _fetch(cache, server.bucket, "x.pth")
    return int(server.ask("bytes_served", f"{PREFIX}x.pth"))


def choosing(settings: Settings) -> Iterator[Comparison]:
    """Choose among 100 checkpoints in a bucket: requests and bytes before the chosen one is fetched."""
    with settings.directory() as root, server_apart() as server:
        linnaeus.save(training(settings.main_sizes[0]).state(), root / "made.pth")
        for epoch in range(1, 101):
            # The same bytes 100 times would fill the memory: only the newest is large.
            path = root / "made.pth" if epoch == 100 else _checkpoint(root / "small.pth", 4_000)
            server.ask("put", f"checkpoint_epoch_{epoch}.pth", str(path))
        server.ask("reset_counts")
        with open_remote(server.bucket).session() as session:
            newest = max(session.files(), key=lambda file: file.size_bytes)
            describe_there(session, newest.name, newest.size_bytes)
        requests, served = server.ask("counts")
    yield Comparison(
        "choosing among 100 checkpoints: requests",
        "",
        {"requests": Sample((float(requests),))},
        "requests",
        [Bar("requests", at_most=5)],
    )
    yield Comparison(
        "choosing among 100 checkpoints: read",
        "MB",
        {"read": Sample((served / 1e6,))},
        "read",
        [Bar("read", at_most=1)],
    )
