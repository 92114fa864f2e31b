"""What tests that fork children to be killed share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def single_thread() -> Iterator[None]:
    """A forked child may not use the threads of its parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave measured times out of the files, so that each has the same size and each save the same calls."""
    monkeypatch.setattr("linnaeus.saving._account.Account.to_plain", lambda _: {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small filesystem needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
