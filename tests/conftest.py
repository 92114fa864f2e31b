"""What tests of several rooms share: a clean environment, a real checkpoint, and a bucket server."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX

# Before anything imports torch: a forked child hangs in OpenMP when its parent has used several threads.
os.environ["OMP_NUM_THREADS"] = "1"

# Who starts the tests in the background of a shell hands an ignored SIGINT down to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails because a machine is slow, or another one was before.
hypothesis.settings.register_profile("patient", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("patient")

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_OF_THE_USER = ("RCLONE_", "B2_", "AWS_", "LINNAEUS_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No credential, setting or rclone.conf of whoever runs the tests reaches them."""
    for name in os.environ:
        if name.startswith(_OF_THE_USER):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """A manager that a test did not close handles no signal in the next one."""
    before = {number: signal.getsignal(number) for number in _HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def checkpoint_bytes() -> bytes:
    """Return what torch.save itself makes of a small state, 300 kB."""
    import torch

    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(75_000.0)}, "epoch": 3}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def other_checkpoint_bytes(checkpoint_bytes: bytes) -> bytes:
    """Return another whole checkpoint of exactly the same size."""
    import torch

    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(75_000.0) + 1}, "epoch": 3}, buffer)
    assert len(buffer.getvalue()) == len(checkpoint_bytes)
    return buffer.getvalue()


@pytest.fixture
def checkpoint_file(tmp_path: Path, checkpoint_bytes: bytes) -> Path:
    """Return a checkpoint on disk, outside every cache: `made/x.pth`."""
    path = tmp_path / "made" / "x.pth"
    path.parent.mkdir()
    path.write_bytes(checkpoint_bytes)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache directory that does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture
def b2(monkeypatch: pytest.MonkeyPatch, checkpoint_bytes: bytes) -> Iterator[B2Server]:
    """Run a B2 server that holds the checkpoint x.pth, with its credentials in the environment."""
    with B2Server(buckets=[BUCKET]) as server:
        server.put(BUCKET, f"{PREFIX}x.pth", checkpoint_bytes)
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def local_bucket(tmp_path: Path, checkpoint_bytes: bytes) -> Path:
    """Return a directory that serves as a bucket and holds the checkpoint x.pth."""
    directory = tmp_path / "bucket"
    (directory / PREFIX).mkdir(parents=True)
    (directory / PREFIX / "x.pth").write_bytes(checkpoint_bytes)
    return directory
