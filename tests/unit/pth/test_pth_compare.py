"""What is said to differ does, by as much as is said; what is said to be equal is."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from linnaeus import pth
from linnaeus.errors import CorruptCheckpointError, UnsafeCheckpointError
from linnaeus.pth import Comparison, TensorDifference


def compared(tmp_path: Path, a: Any, b: Any) -> Comparison:
    """Save two objects and compare the files, also by way of torch's own writer, which must say the same."""
    for name, obj in (("a", a), ("b", b)):
        pth.save(obj, tmp_path / f"{name}.pth")
        torch.save(obj, tmp_path / f"{name}_torch.pth")
    ours = pth.compare(tmp_path / "a.pth", tmp_path / "b.pth")
    for other in ("a.pth", "a_torch.pth"):
        theirs = pth.compare(tmp_path / other, tmp_path / "b_torch.pth").to_plain()
        without = {"a", "b", "about", "values"}
        assert {k: v for k, v in theirs.items() if k not in without and k != "equal"} == {
            k: v for k, v in ours.to_plain().items() if k not in without and k != "equal"
        }
    return ours


def only(found: Comparison) -> TensorDifference:
    """Return the one tensor that differs."""
    (difference,) = found.tensors
    return difference


def test_equal_files_are_equal(tmp_path: Path) -> None:
    """Two files of the same content are equal, whoever wrote them, in which format."""
    obj = {"model": {"w": torch.arange(6.0).view(2, 3).t()}, "epoch": 3}
    found = compared(tmp_path, obj, obj)
    assert (found.equal, found.num_equal) == (True, 1)
    torch.save(obj, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert pth.compare(tmp_path / "a_torch.pth", tmp_path / "old.pth").equal


def test_differences_have_their_sizes(tmp_path: Path) -> None:
    """The largest difference, that against the largest value, and in how many elements."""
    found = compared(tmp_path, {"w": torch.tensor([1.0, 2.0, -8.0])}, {"w": torch.tensor([1.0, 2.5, -10.0])})
    difference = only(found)
    assert (difference.largest, difference.relative, difference.num_differing) == (2.0, 0.2, 2)
    assert not found.equal


def test_names_shapes_and_types(tmp_path: Path) -> None:
    """Tensors of one file only, and those of another shape or type, are named; nothing else is."""
    a = {"same": torch.ones(2), "gone": torch.ones(1), "shape": torch.ones(2, 3), "dtype": torch.ones(2)}
    b = {
        "same": torch.ones(2),
        "new": torch.ones(1),
        "shape": torch.ones(3, 2),
        "dtype": torch.ones(2, dtype=torch.float16),
    }
    found = compared(tmp_path, a, b)
    assert (found.only_a, found.only_b, found.num_equal) == (("gone",), ("new",), 1)
    shape, dtype = found.tensors
    assert (shape.name, shape.shapes, shape.largest) == ("shape", ((2, 3), (3, 2)), None)
    assert (dtype.name, dtype.dtypes, dtype.largest, dtype.num_differing) == (
        "dtype",
        ("float32", "float16"),
        0.0,
        0,
    )


def test_what_differs_in_layout_only_is_equal(tmp_path: Path) -> None:
    """The same elements in another order of memory, or in a shared storage, are equal."""
    base = torch.arange(12.0)
    a = {"w": base.view(3, 4), "part": base[4:8]}
    b = {"w": base.view(3, 4).t().contiguous().t(), "part": base[4:8].clone()}
    assert compared(tmp_path, a, b).equal


@pytest.mark.parametrize(
    ("a", "b", "largest", "number"),
    [
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 2.0]), 1.0, 1),
        (torch.tensor([math.nan, 1.0]), torch.tensor([0.0, 1.0]), math.inf, 1),
        (torch.tensor([math.inf, 1.0]), torch.tensor([math.inf, 3.0]), 2.0, 1),
        (torch.tensor([2**60]), torch.tensor([2**60 + 1]), 1.0, 1),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0, 1),
        (torch.tensor([1 + 1j]), torch.tensor([1 - 1j]), 2.0, 1),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 1j]).conj(), 2.0, 1),
        (torch.tensor([1.0]).to(torch.float8_e4m3fn), torch.tensor([2.0]).to(torch.float8_e4m3fn), 1.0, 1),
        (torch.tensor([3], dtype=torch.uint64), torch.tensor([5], dtype=torch.uint64), 2.0, 1),
        (torch.zeros(1).expand(5), torch.ones(1).expand(5), 1.0, 5),
        (torch.tensor(1.0), torch.tensor(4.0), 3.0, 1),
    ],
    ids=str,
)
def test_every_kind_of_number(
    tmp_path: Path, a: torch.Tensor, b: torch.Tensor, largest: float, number: int
) -> None:
    """NaN equals NaN, infinities themselves; integers are compared exactly; views by what they show."""
    difference = only(compared(tmp_path, {"t": a}, {"t": b}))
    assert (difference.largest, difference.num_differing) == (largest, number)


def test_large_tensors_are_compared_piece_by_piece(tmp_path: Path) -> None:
    """A difference anywhere in a large, transposed tensor is found once."""
    a = torch.zeros(1700, 1300).t()
    b = a.clone(memory_format=torch.preserve_format)
    b[1299, 1699] = 7.0
    b[0, 0] = -1.0
    difference = only(compared(tmp_path, {"t": a}, {"t": b}))
    assert (difference.largest, difference.num_differing) == (7.0, 2)


def test_repeated_elements_are_compared_once(tmp_path: Path) -> None:
    """A tensor that repeats one element a trillion times is compared at once, and counted in full."""
    a, b = ({"t": torch.full((1, 2), value).expand(10**12, 2)} for value in (1.0, 2.0))
    difference = only(compared(tmp_path, a, b))
    assert (difference.largest, difference.num_differing) == (1.0, 2 * 10**12)


def test_sparse_tensors_are_compared_by_their_parts(tmp_path: Path) -> None:
    """A sparse tensor whose values differ is named with the part that does."""
    a, b = ({"s": torch.tensor([[0.0, value], [0.0, 0.0]]).to_sparse()} for value in (1.0, 2.0))
    found = compared(tmp_path, a, b)
    assert (only(found).name, found.num_equal) == ("s.sparse.1", 1)


def test_equal_records_are_not_read(tmp_path: Path) -> None:
    """Only what has another checksum is read: damage in what both have alike is not even seen."""
    a = {"same": torch.arange(1000.0), "other": torch.zeros(3)}
    pth.save(a, tmp_path / "a.pth")
    pth.save(a | {"other": torch.ones(3)}, tmp_path / "b.pth")
    content = bytearray((tmp_path / "b.pth").read_bytes())
    at = content.index(torch.arange(1000.0).numpy().tobytes())
    content[at + 2000] ^= 1
    (tmp_path / "b.pth").write_bytes(content)
    found = pth.compare(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (only(found).name, found.num_equal) == ("other", 1)


def test_values_and_what_files_say_of_themselves(tmp_path: Path) -> None:
    """Differing plain values are listed, those that the file says of itself apart and once."""
    for name, epoch, rate in (("a", 1, 0.1), ("b", 2, 0.2)):
        state = {"epoch": epoch, "optimizer": {"lr": rate, "betas": (0.9, 0.99)}, "w": torch.ones(1)}
        about = {"epoch": epoch, "metrics": {"loss": 1 / epoch}, "world": 1}
        pth.save(state, tmp_path / f"{name}.pth", about=about)
    found = pth.compare(tmp_path / "a.pth", tmp_path / "b.pth").to_plain()
    assert found["about"] == [{"name": "epoch", "a": 1, "b": 2}, {"name": "metrics.loss", "a": 1.0, "b": 0.5}]
    assert found["values"] == [{"name": "optimizer.lr", "a": 0.1, "b": 0.2}]
    assert not found["equal"]


def test_a_value_of_one_file_only_has_one_side(tmp_path: Path) -> None:
    """Where a value is missing, its side is left out, which is not the same as None."""
    found = compared(tmp_path, {"x": None}, OrderedDict(y={1, 2}))
    assert [value.to_plain() for value in found.values] == [
        {"name": "x", "a": None},
        {"name": "y", "b": "{1, 2}"},
    ]


def test_names_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    """Keys with dots do not hide what stands under the same path."""
    a = {"m.w": torch.ones(1), "m": {"w": torch.ones(1)}}
    b = {"m.w": torch.zeros(1), "m": {"w": torch.ones(1)}}
    found = compared(tmp_path, a, b)
    assert (only(found).name, found.num_equal) == ("m.w", 1)


def test_bad_files_are_errors(tmp_path: Path) -> None:
    """An unsafe file and a damaged one are refused, on either side."""
    pth.save({"w": torch.ones(1)}, tmp_path / "good.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "unsafe.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:-30])
    for name, error in (("unsafe", UnsafeCheckpointError), ("cut", CorruptCheckpointError)):
        for pair in ((f"{name}.pth", "good.pth"), ("good.pth", f"{name}.pth")):
            with pytest.raises(error):
                pth.compare(*(tmp_path / part for part in pair))
