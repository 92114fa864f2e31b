"""Any tree of tensors and plain values, written and read in every combination of torch and linnaeus."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import linnaeus
from support.trees import same

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor of random bits: any dtype, up to three dimensions, often a view with gaps."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    whole = [2 * length + 1 for length in shape]
    size = 2 if dtype == torch.bool else 256
    bits = torch.randint(
        0, size, [*whole[:-1], (whole or [1])[-1] * dtype.itemsize], generator=stream, dtype=torch.uint8
    )
    made = bits.bool() if dtype == torch.bool else bits.view(dtype)
    if not shape:
        return made[0]
    if draw(st.booleans()):
        made = made.transpose(0, -1)
    return made[tuple(slice(0, 2 * length, draw(st.sampled_from([1, 2]))) for length in shape[: made.dim()])]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**1900), 2**1900),
    st.integers(-300, 70000),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Lo", "Cc"]), max_size=4),
    st.binary(min_size=1, max_size=8),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float16, torch.Size([2, 3]), torch.device("cpu")]),
)
keys = st.one_of(
    st.text(max_size=5),
    st.integers(-5, 2**40),
    st.booleans(),
    st.tuples(st.integers(0, 3), st.text(max_size=2)),
)


def containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw lists, tuples and dicts of drawn parts."""
    dicts = st.dictionaries(keys, parts, max_size=4)
    return st.one_of(
        st.lists(parts, max_size=4), st.lists(parts, max_size=3).map(tuple), dicts, dicts.map(OrderedDict),
        parts.map(lambda part: [part, part]),
    )  # fmt: skip


trees = st.recursive(st.one_of(tensors(), scalars), containers, max_leaves=12)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """One directory for all examples."""
    with TemporaryDirectory() as name:
        yield Path(name)


def written(tree: Any, directory: Path) -> list[Path]:
    """Write a tree in the three ways."""
    paths = [directory / name for name in ("ours.pth", "torch.pth", "old.pth")]
    linnaeus.save(tree, paths[0])
    torch.save(tree, paths[1])
    torch.save(tree, paths[2], _use_new_zipfile_serialization=False)
    return paths


@given(trees)
@settings(max_examples=120, deadline=None)
def test_all_writers_and_readers_agree_bit_for_bit(directory: Path, tree: Any) -> None:
    """Whatever is saved with either comes back the same through either, mapped or not."""
    for path in written(tree, directory):
        mapped = [False] if path.name == "old.pth" else [False, True]
        for mmap in mapped:
            assert same(torch.load(path, weights_only=True, mmap=mmap), tree)
            assert same(linnaeus.load(path, mmap=mmap), tree)
        assert linnaeus.verify(path).ok


@given(trees)
@settings(max_examples=60, deadline=None)
def test_a_description_is_the_same_whoever_wrote(directory: Path, tree: Any) -> None:
    """Names, shapes, dtypes and keys are told alike for our file and for torch's."""
    ours, theirs, old = map(linnaeus.describe, written(tree, directory))
    told = [[(t.name, t.dtype, t.shape, t.stride, t.offset) for t in d.tensors] for d in (ours, theirs, old)]
    assert told[0] == told[1] == told[2]
    assert ours.keys == theirs.keys == old.keys


json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
)
json_values = st.recursive(
    json_scalars,
    lambda part: st.one_of(
        st.lists(part, max_size=3), st.dictionaries(st.text(max_size=3), part, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values))
@settings(max_examples=50, deadline=None)
def test_what_a_file_says_of_itself_comes_back(directory: Path, about: dict[str, Any]) -> None:
    """Any JSON value in `about` is told again unchanged."""
    linnaeus.save({"w": torch.ones(1)}, directory / "about.pth", about=about)
    assert linnaeus.describe(directory / "about.pth").about == about
