"""Telling the disk to begin early promises nothing and changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linnaeus.files import WriteBack, _writeback


def test_what_is_written_stays_what_it_is(tmp_path: Path) -> None:
    """In order, with gaps and backwards: the bytes are those that were written."""
    data = os.urandom(1 << 20)
    path = tmp_path / "x"
    with path.open("wb") as file:
        back = WriteBack(file.fileno())
        for position in [*range(0, 20 << 20, 1 << 20), 40 << 20, 30 << 20]:
            os.pwrite(file.fileno(), data, position)
            back.wrote(position, len(data))
        back.begin()
    content = path.read_bytes()
    assert all(content[at << 20 : (at + 1) << 20] == data for at in [*range(20), 30, 40])


def test_each_byte_is_begun_with_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are as large as what lies together, and nothing is left out."""
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(
        _writeback, "_sync_file_range", lambda: lambda _, start, size, __: begun.append((start, size))
    )
    back = WriteBack(0)
    for position in (0, 5, 100, 50):
        back.wrote(position, 5)
    back.wrote(55, 9 << 20)
    back.begin()
    assert begun == [(0, 10), (100, 5), (50, 5 + (9 << 20))]


def test_a_system_without_the_call_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such call, writing goes on as before."""
    monkeypatch.setattr(_writeback, "_sync_file_range", lambda: None)
    back = WriteBack(0)
    back.wrote(0, 9 << 20)
    back.begin()
