"""No bit of a small file can change, and no byte be cut off, without being found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointInvalidError

WRITERS = {"linnaeus": linnaeus.save, "torch": torch.save}


def small_tree() -> dict[str, Any]:
    """Return a state with a shared storage, an empty one and a plain value, 20 bytes of tensors in all."""
    base = torch.arange(3, dtype=torch.int32)
    return {"w": base, "v": base[1:], "e": torch.empty(0), "b": torch.ones(2), "step": 3}


@pytest.fixture(scope="module")
def memory_directory() -> Iterator[Path]:
    """Return a directory in memory, where there is one."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def written(directory: Path, writer: str) -> Path:
    """Write the small state in a file of its own."""
    path = directory / f"{writer}.pth"
    WRITERS[writer](small_tree(), path)
    return path


@pytest.mark.parametrize("writer", WRITERS)
def test_every_single_bit_flip_is_found(memory_directory: Path, writer: str) -> None:
    """Each bit of the file in its turn, payloads, headers, padding and directory: verify finds it."""
    path = written(memory_directory, writer)
    whole = path.read_bytes()
    assert linnaeus.verify(path).checked == "content"
    unseen = []
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes((byte ^ 1 << bit,)), position)
                report = linnaeus.verify(path)
                if report.ok or not isinstance(report.error, CheckpointInvalidError):
                    unseen.append((position, bit))
            os.pwrite(file.fileno(), bytes((byte,)), position)
    assert unseen == []
    assert linnaeus.verify(path).ok


@pytest.mark.parametrize("writer", WRITERS)
def test_every_truncation_is_found_by_structure_alone(memory_directory: Path, writer: str) -> None:
    """Cut to each length from nothing to one byte less: found without reading the tensors."""
    path = written(memory_directory, writer)
    assert linnaeus.verify(path, content=False).ok
    unseen = []
    for length in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, length)
        report = linnaeus.verify(path, content=False)
        if report.ok or not isinstance(report.error, CheckpointInvalidError):
            unseen.append(length)
    assert unseen == []


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("tail", [b"\0", b"x", b"PK\x05\x06" + bytes(18), bytes(4096)])
def test_anything_appended_is_found(memory_directory: Path, writer: str, tail: bytes) -> None:
    """Bytes behind the end, as a broken transfer leaves them, are found too."""
    path = written(memory_directory, writer)
    with path.open("ab") as file:
        file.write(tail)
    assert not linnaeus.verify(path).ok
