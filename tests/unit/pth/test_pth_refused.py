"""What a file of ours can't hold, or what can't be read without running code, is refused by its place."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linnaeus
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    SaveError,
    UnsafeCheckpointError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for the file under test."""
    return tmp_path / "x.pth"


class Custom:
    """A class that no safe file can hold."""


def _with_attribute() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.note = Custom()  # type: ignore[attr-defined]
    return parameter


def _odd_state_dict() -> OrderedDict[str, Any]:
    odd: OrderedDict[str, Any] = OrderedDict()
    odd._metadata = Custom()  # type: ignore[attr-defined]
    return odd


@pytest.mark.parametrize(
    ("obj", "place"),
    [
        (Custom(), "the object"),
        ({"a": {"b": [0, Custom()]}}, "a.b.1"),
        ({"config": argparse.Namespace(lr=1)}, "config"),
        ({"n": np.float32(1)}, "n"),
        ({"n": np.ones(2)}, "n"),
        ({"f": print}, "f"),
        ({"a": 1 << 2100}, "a"),
        ({"a": bytearray(b"x")}, "a"),
        ({"a": {(1, (2, frozenset({3}))): 1}}, "a"),
        ({frozenset({1}): 1}, "the object"),
        ({"p": _with_attribute()}, "p.note"),
        ({"model": _odd_state_dict()}, "model._metadata"),
        ({"t": torch.utils._pytree}, "t"),
        ({"s": torch.ones(1).untyped_storage()}, "s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_safe_file_cannot_hold_is_refused_by_its_place(path: Path, obj: Any, place: str) -> None:
    """Nothing is written that torch's safe reader would refuse; the message names where it stands."""
    path.write_bytes(b"before")
    with pytest.raises(SaveError) as caught:
        linnaeus.save(obj, path)
    assert caught.value.problem.startswith(place)
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.pth"]


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def test_what_is_saved_as_deep_as_allowed_is_read_and_deeper_is_refused(path: Path) -> None:
    """Writer and readers agree on how deep is too deep."""
    linnaeus.save(nested(200), path)
    assert linnaeus.verify(path).ok
    assert linnaeus.load(path) == nested(200)
    with pytest.raises(SaveError, match="nested more than 200 deep"):
        linnaeus.save(nested(201), path)
    with pytest.raises(SaveError, match="nested more than 200 deep"):
        linnaeus.save(nested(100_000), path)


def test_names_longer_than_allowed_are_refused_by_writer_and_readers(path: Path) -> None:
    """Else a small file with one long key above many tensors would ask for more memory than there is."""
    many = [torch.zeros(1)] * 3
    linnaeus.save({"k" * 4000: many}, path)
    assert linnaeus.verify(path).ok
    with pytest.raises(SaveError, match="a name of more than 4096 characters"):
        linnaeus.save({"k" * 4097: many}, path)
    torch.save({"k" * 4097: many}, path)
    with pytest.raises(CheckpointInvalidError, match="a name is longer than 4096 characters"):
        linnaeus.describe(path)


def test_an_about_that_is_no_json_is_a_save_error(path: Path) -> None:
    """Only errors of linnaeus come out, and nothing is left behind."""
    with pytest.raises(SaveError, match="JSON"):
        linnaeus.save({}, path, about={"x": torch.ones(1)})
    assert list(path.parent.iterdir()) == []


def test_numpy_arrays_and_other_classes_are_refused_by_name(path: Path) -> None:
    """What is more than data is refused with the names that it asks for."""
    torch.save({"a": np.ones(2), "c": Custom()}, path)
    with pytest.raises(UnsafeCheckpointError) as caught:
        linnaeus.load(path)
    assert any(name.endswith("multiarray._reconstruct") for name in caught.value.globals)
    assert f"{__name__}.Custom" in caught.value.globals
    assert linnaeus.describe(path).unsafe == tuple(caught.value.globals)
    assert "numpy" in str(caught.value)


def test_a_missing_file_and_a_directory_are_errors_of_ours(tmp_path: Path) -> None:
    """What can't be opened is reported as such, never as a system error."""
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        linnaeus.load(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointInvalidError, match="it is a directory"):
        linnaeus.load(tmp_path)
    assert not linnaeus.verify(tmp_path / "nothing.pth").ok
    assert not linnaeus.verify(tmp_path).ok


def test_saving_where_it_is_impossible_is_a_save_error(tmp_path: Path) -> None:
    """A missing directory is told with the path and the system's reason."""
    with pytest.raises(SaveError, match="No such file"):
        linnaeus.save({}, tmp_path / "no" / "x.pth")
