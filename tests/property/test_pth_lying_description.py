"""A `linnaeus.json` that lies, under a true checksum: refused, or an object that does no harm."""

from __future__ import annotations

import copy
import json
import sys
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import linnaeus
from linnaeus.errors import CheckpointInvalidError
from linnaeus.pth._layout import directory, place
from support.limited import in_limited_child

# Newer Pythons warn of forking beside threads; the children use none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),  # torch itself, for quantized tensors
    pytest.mark.filterwarnings("ignore:.*quantiz.*"),
    pytest.mark.filterwarnings("ignore:Sparse"),
]

SMALL = 1 << 20


def rich_tree() -> dict[str, Any]:
    """Return an object with every kind of node that a description knows."""
    base = torch.arange(24, dtype=torch.float32)
    shared = [1, {"deep": (1, "x")}]
    ordered: OrderedDict[str, Any] = OrderedDict(w=base[2:8].view(2, 3), b=base)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        per_tensor = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 1, torch.qint8)
        per_channel = torch.quantize_per_channel(
            torch.ones(2, 3), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.quint8
        )
        compressed = torch.eye(3).to_sparse_csr()
    return {
        "model": ordered,
        "list": shared,
        "again": shared,
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "conj": torch.tensor([1 + 2j, 3j]).conj(),
        "neg": torch.tensor([1 + 2j, 3j]).conj().imag,
        "grown": torch.ones(2, requires_grad=True),
        "coo": torch.eye(3).to_sparse(),
        "csr": compressed,
        "per_tensor": per_tensor,
        "per_channel": per_channel,
        "meta": torch.empty(2, 3, device="meta"),
        "odd": {(1, b"k"): 2.5, 1 << 70: None, float("inf"): 1j},
        "counter": Counter("aab"),
        "set": {1, 2},
        "types": [torch.float16, torch.device("cpu"), torch.Size([2, 3]), b"bytes", float("nan"), -0.0],
    }


def records_of(path: Path) -> list[tuple[str, bytes]]:
    """Return an archive's records in the order of the file."""
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def write_lying(path: Path, records: list[tuple[str, bytes]], document: bytes) -> None:
    """Write the records with another description, each with a true checksum."""
    records = [*records[:-1], (records[-1][0], document)]
    crc32s = [zlib.crc32(data) for _, data in records]
    entries = place((name, len(data)) for name, data in records)
    with path.open("wb") as file:
        for entry, (_, data), crc32 in zip(entries, records, crc32s, strict=True):
            file.write(entry.header + data + entry.descriptor(crc32))
        file.write(directory(entries, crc32s))


@pytest.fixture(scope="module")
def place_and_records() -> Iterator[tuple[Path, list[tuple[str, bytes]]]]:
    """Return where to write, and the records of the true file."""
    with TemporaryDirectory() as name:
        path = Path(name) / "x.pth"
        linnaeus.save(rich_tree(), path, about={"epoch": 1})
        yield path, records_of(path)


def read_in_every_way(path: Path, num_bytes: int) -> int:
    """Read a file; only refusals may come out, and what is loaded may do no harm. Return how often it was."""
    loaded = 0
    for content in (False, True):
        linnaeus.verify(path, content=content)
    for read in (linnaeus.describe, linnaeus.load, lambda path: linnaeus.load(path, mmap=False)):
        try:
            obj = read(path)
        except CheckpointInvalidError:
            continue
        touch(obj, num_bytes, set())
        loaded += 1
    return loaded


def touch(node: Any, num_bytes: int, seen: set[int]) -> None:
    """Use every tensor in an object: a view beyond its bytes would read what is not its own, or crash."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, torch.Tensor):
        touch_tensor(node, num_bytes)
    elif isinstance(node, dict):
        for key, item in dict.items(node):
            touch((key, item), num_bytes, seen)
    elif isinstance(node, (list, tuple, set)):
        for item in node:
            touch(item, num_bytes, seen)


def touch_tensor(tensor: torch.Tensor, num_bytes: int) -> None:
    """Read all elements of a tensor, unless it is one of a few bytes told to stand for very many."""
    if tensor.is_meta:
        return
    if tensor.layout is torch.strided:
        storage = tensor.untyped_storage()
        reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        reach = (tensor.storage_offset() + reach) * tensor.element_size() if tensor.numel() else 0
        assert reach <= storage.nbytes() <= num_bytes
    if tensor.numel() > SMALL:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if tensor.is_quantized:
            tensor.dequantize().sum()
        elif tensor.layout is not torch.strided:
            tensor.detach().to_dense()
        else:
            tensor.detach().clone()


STRANGE = [
    -1, 0, 1, 2, 3, 7, 255, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 2**200, -(2**63), -(2**200),
    0.5, -0.0, 1e308, float("inf"), float("nan"), True, False, None, "", "x", "\ud800", "9" * 5000, [], {},
    [[]], [0], [1, 2], [1, "a"], {"": 0}, {"$": 0}, {"$nothing": 1}, {"a": 1},
    {"$tensor": 0}, {"$tensor": 1}, {"$tensor": -1}, {"$tensor": 2**70}, {"$tensor": True}, {"$tensor": []},
    {"$same": 0}, {"$same": 1}, {"$same": -1}, {"$same": 2**70}, {"$same": None},
    {"$parameter": True, "data": {"$tensor": 0}}, {"$parameter": True}, {"$parameter": 5, "data": 5},
    {"$sparse": "sparse_coo", "parts": [], "size": [], "coalesced": True}, {"$sparse": "strided"},
    {"$sparse": "sparse_coo", "parts": [{"$tensor": 0}, {"$tensor": 1}], "size": [2**40], "coalesced": True},
    {"$quantized": {"$tensor": 0}, "scheme": "per_tensor_affine", "by": [0.5, 1]},
    {"$quantized": {"$tensor": 0}, "scheme": "per_tensor_affine", "by": [{}, []]},
    {"$ordered": []}, {"$ordered": [[1]]}, {"$ordered": [], "attributes": []}, {"$ordered": 5},
    {"$ordered": [["a", 1]], "attributes": {"items": 1, "__class__": 2}},
    {"$dict": [[[], 1]]}, {"$dict": [[{}, 1]]}, {"$dict": [[{"$tuple": [{}]}, 1]]}, {"$dict": {"a": 1}},
    {"$dict": [[{"$same": 0}, 1]]}, {"$dict": [[{"$tensor": 0}, 1]]},
    {"$dict": [[{"$float": "0x1p99999"}, 1]]},
    {"$counter": [["a", "b"]]}, {"$tuple": 5}, {"$tuple": "abc"}, {"$set": [[]]}, {"$set": [{"$same": 0}]},
    {"$int": "zz"}, {"$int": 5}, {"$int": "f" * 20_000}, {"$float": "x"}, {"$float": "0x1p99999"},
    {"$complex": []}, {"$complex": ["0x1p0", 1]}, {"$bytes": "?"}, {"$bytes": 5}, {"$dtype": "Tensor"},
    {"$dtype": []}, {"$dtype": "float99"}, {"$device": "gpu"}, {"$device": 99},
    {"$device": "cpu:999999999999"},
    {"$device": []}, {"$size": ["a"]}, {"$size": 5}, {"$size": [2**70]}, {"$size": [-1]},
    "float64", "int8", "bool", "bits16", "qint8", "quint4x2", "complex128", "float4_e2m1fn_x2", "float99",
    "per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams", "uint1",
    "int" + "9" * 5000,
    "requires_grad", "conj", "neg", "sparse_csc", "sparse_bsr", "strided", "big",
]  # fmt: skip


def places_in(node: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON tree as (container, key)."""
    found, stack = [], [node]
    while stack:
        node = stack.pop()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, item in items:
            found.append((node, key))
            if isinstance(item, (dict, list)):
                stack.append(item)
    return found


def nested(kind: int, depth: int) -> Any:
    """Return something nested deep, in one of several kinds of nodes."""
    node: Any = 1
    for _ in range(depth):
        node = [
            [node], {"a": node}, {"$tuple": [node]}, {"$dict": [[1, node]]}, {"$ordered": [[1, node]]},
            {"$dict": [[{"$tuple": [node]}, 1]]}, {"$parameter": True, "data": node},
            {"$counter": [["a", node]]},
            {"$sparse": "sparse_coo", "parts": [node], "size": [1]},
            {"$quantized": node, "scheme": "x", "by": []},
            {"$ordered": [], "attributes": node}, {"$set": [node]},
        ][kind % 12]  # fmt: skip
    return node


def lying(document: Any, lie: Callable[[Any], object]) -> bytes:
    """Return a description after something was done to a copy of it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # for making and spelling what is nested deep, not for reading it
    try:
        return _spelled(copy.deepcopy(document), lie)
    finally:
        sys.setrecursionlimit(before)


def _spelled(document: Any, lie: Callable[[Any], object]) -> bytes:
    lie(document)
    return json.dumps(document).encode()


def lie_at_random(document: Any, lies: list[tuple[str, int, int]]) -> None:
    """Change a description in some places."""
    for how, where, what in lies:
        places = places_in(document)
        container, key = places[where % len(places)]
        other, other_key = places[what % len(places)]
        if how == "replace":
            container[key] = copy.deepcopy(STRANGE[what % len(STRANGE)])
        elif how == "swap":
            container[key], other[other_key] = other[other_key], container[key]
            if _is_cyclic(document):
                container[key], other[other_key] = other[other_key], container[key]
        elif how == "copy":
            container[key] = copy.deepcopy(other[other_key])
        elif how == "nest":
            container[key] = nested(what, 30 + what % 370)
        elif how == "delete":
            del container[key]
        elif how == "off by":
            if type(container[key]) in (int, float):
                container[key] += what % 9 - 4
        elif isinstance(container, list):
            container.insert(key, container[key])


def _is_cyclic(document: Any) -> bool:
    try:
        json.dumps(document)
    except ValueError:
        return True
    return False


lies = st.lists(
    st.tuples(
        st.sampled_from(["replace", "swap", "copy", "nest", "delete", "off by", "repeat"]),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
    ),
    min_size=1,
    max_size=4,
)


def test_a_description_that_lies_at_random_is_refused_or_harmless(
    place_and_records: tuple[Path, list[tuple[str, bytes]]],
) -> None:
    """Any nodes replaced, swapped, copied, nested: refused, or an object that stays in its bytes."""
    path, records = place_and_records
    document = json.loads(records[-1][1])

    @given(lies)
    @settings(max_examples=700, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def fuzz(chosen: list[tuple[str, int, int]]) -> None:
        write_lying(path, records, lying(document, lambda copied: lie_at_random(copied, chosen)))
        read_in_every_way(path, path.stat().st_size)

    in_limited_child(fuzz)


def named(document: Any, name: str) -> Any:
    """Return what stands at the top of the object under a name."""
    return document["tree"][name]


def _set(*way: Any) -> Callable[[Any], None]:
    """Return the act of putting the last of the arguments where the others lead."""

    def act(document: Any) -> None:
        *path, last, value = way
        for key in path:
            document = document[key]
        document[last] = value

    return act


def _large_tensor(dtype: str) -> Callable[[Any], None]:
    def act(document: Any) -> None:
        document["tensors"].append([0, dtype, [document["storages"][0][1]], [1], 0])
        document["tree"]["large"] = {"$tensor": len(document["tensors"]) - 1}

    return act


LIES: dict[str, Callable[[Any], None]] = {
    "a storage before the one before it": lambda d: d["storages"].reverse(),
    "storages that overlap": lambda d: _set("storages", 1, list(d["storages"][0]))(d),
    "a storage beyond the file": _set("storages", -1, [1 << 40, 8]),
    "a storage of a huge size": _set("storages", -1, 1, 1 << 62),
    "a storage of a negative size": _set("storages", 0, 1, -8),
    "a storage at a negative place": _set("storages", 0, 0, -64),
    "a storage at half a place": _set("storages", 0, 0, 64.5),
    "a storage that is true": _set("storages", 0, 0, True),
    "more storages than there are bytes": lambda d: d["storages"].extend([[1 << 40, 1]] * 1000),
    "a huge shape": _set("tensors", 0, 2, [1 << 62, 1 << 62]),
    "a shape just too large": _set("tensors", 0, 2, [8, 3]),
    "a stride just too large": _set("tensors", 0, 3, [30, 1]),
    "an offset just too large": _set("tensors", 0, 4, 19),
    "an offset beyond 64 bits": _set("tensors", 0, 4, 1 << 80),
    "a wider type": _set("tensors", 0, 1, "complex128"),
    "another key": _set("tensors", 0, 0, 99),
    "a key that is a text": _set("tensors", 0, 0, "0"),
    "an unknown type": _set("tensors", 0, 1, "Tensor"),
    "a tensor of no kind": _set("tensors", 0, None),
    "a huge tensor of nothing": _set("tensors", 0, 2, [0, 1 << 80]),
    "tensor out of range": _set("tree", "list", {"$tensor": 10_000}),
    "same out of range": _set("tree", "list", {"$same": 10_000}),
    "same as what comes later": _set("tree", "list", {"$same": 40}),
    "an unknown kind": _set("tree", "list", {"$code": "import os"}),
    "a sparse tensor with indices outside": lambda d: _set("size", [1, 1])(named(d, "coo")),
    "a sparse tensor of another layout": lambda d: _set("$sparse", "sparse_csc")(named(d, "coo")),
    "a quantized tensor that is none": lambda d: _set("$quantized", {"$tensor": 0})(named(d, "per_tensor")),
    "a plain tensor that is quantized": lambda d: _set(
        "tree", "x", {"$tensor": named(d, "per_tensor")["$quantized"]["$tensor"]}
    )(d),
    "a quantized tensor of another axis": lambda d: _set("by", 2, 1)(named(d, "per_channel")),
    "a quantized tensor with a huge axis": lambda d: _set("by", 2, 1 << 62)(named(d, "per_channel")),
    "a parameter of whole numbers": lambda d: (
        d["tensors"].append([0, "int32", [1], [1], 0]),
        _set("tree", "parameter", "data", {"$tensor": len(d["tensors"]) - 1})(d),
    ),
    "lists nested too deep": _set("tree", "list", nested(0, 450)),
    "keys nested too deep": _set("tree", "list", nested(5, 250)),
    "bits of sixteen told as eight": _large_tensor("bits16"),
    "no tree": lambda d: d.pop("tree"),
    "no format": lambda d: d.pop("format"),
    "a newer format": _set("format", 2),
    "a format of a text": _set("format", "1"),
}


# Found when the object is built. Verify, which needs no torch, compares tensors and bytes, not plain values.
OF_THE_TREE = {
    "same out of range", "same as what comes later", "an unknown kind",
    "a sparse tensor with indices outside",
    "a sparse tensor of another layout", "a quantized tensor of another axis", "a parameter of whole numbers",
    "a quantized tensor with a huge axis", "lists nested too deep", "keys nested too deep",
    "a huge tensor of nothing", "a plain tensor that is quantized", "a quantized tensor that is none",
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_description_with_one_lie_is_refused(
    place_and_records: tuple[Path, list[tuple[str, bytes]]], name: str
) -> None:
    """Each lie alone, under a true checksum, is found by verify and by load, before torch can stumble."""
    path, records = place_and_records
    document = json.loads(records[-1][1])
    write_lying(path, records, lying(document, LIES[name]))

    def read() -> None:
        read_in_every_way(path, path.stat().st_size)
        for mmap in (True, False):
            with pytest.raises(CheckpointInvalidError):
                linnaeus.load(path, mmap=mmap)
        if name not in OF_THE_TREE:
            assert not linnaeus.verify(path, content=False).ok

    in_limited_child(read)


@pytest.mark.parametrize("depth", [100, 900, 5_000, 500_000])
def test_a_description_of_any_depth_is_no_crash(
    place_and_records: tuple[Path, list[tuple[str, bytes]]], depth: int
) -> None:
    """Brackets within brackets, as text, in the tree and beside it."""
    path, records = place_and_records
    document = records[-1][1]
    tree = document.index(b'"tree":') + len(b'"tree":')
    head = document[:tree]

    def read() -> None:
        for opened, closed in ((b"[", b"]"), (b'{"a":', b"}"), (b'{"$tuple":[', b"]}")):
            write_lying(path, records, head + opened * depth + b"1" + closed * depth + b"}")
            read_in_every_way(path, path.stat().st_size)
            write_lying(path, records, opened * depth + b"1" + closed * depth)
            read_in_every_way(path, path.stat().st_size)

    in_limited_child(read)


def test_the_true_description_written_the_same_way_is_read(
    place_and_records: tuple[Path, list[tuple[str, bytes]]],
) -> None:
    """The files above fail for their lies, not for how they are made."""
    path, records = place_and_records
    write_lying(path, records, json.dumps(json.loads(records[-1][1])).encode())
    assert linnaeus.verify(path).ok
    assert read_in_every_way(path, path.stat().st_size) == 3
