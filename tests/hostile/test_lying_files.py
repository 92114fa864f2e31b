"""Files that lie about themselves: refused or harmless, without a crash and without a large allocation."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    LinnaeusError,
    UnsupportedFormatError,
)
from linnaeus.pth._document import Document
from linnaeus.pth._rebuild import load_described
from support.pickles import MAGIC, PROTOCOL, SYSTEM, archive, dumps, legacy, tensor_pickle

# Newer Pythons warn of forking beside threads; the children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

_ALLOWED_KB = 200 << 10
_LIMIT_BYTES = 4 << 30  # of address space, so that a failing test does not harm the machine
DATA = {"data/0": bytes(8)}


def in_child(act: Callable[[], None]) -> None:
    """Run something in a child; fail if it crashes, or touches more than 200 MB or 20 seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            here = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (here + _LIMIT_BYTES, here + _LIMIT_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            act()
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _ALLOWED_KB, (
                "too much memory"
            )
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{type(error).__name__}: {error}\n"[:500])
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"status {status}"


def survive(path: Path) -> None:
    """Read a file in every way; only errors of linnaeus may come out."""
    for read in (linnaeus.verify, linnaeus.describe, linnaeus.load):
        with contextlib.suppress(CheckpointInvalidError):
            read(path)


def u4(number: int) -> bytes:
    """Return a number as four bytes."""
    return struct.pack("<I", number)


def u8(number: int) -> bytes:
    """Return a number as eight bytes."""
    return struct.pack("<Q", number)


NESTED = 100_000
BOMBS = {
    "memo index 2**26": b"\x80\x02Nr" + u4(2**26) + b".",
    "memo index 2**31": b"\x80\x02Nr" + u4(2**31) + b".",
    "memo index 2**32-1": b"\x80\x02Nr" + u4(2**32 - 1) + b".",
    "memo index as text": b"\x80\x02Np99999999999\n.",
    "memo index as huge text": b"\x80\x02Np" + b"9" * 5000 + b"\n.",
    "fetch of an unset memo": b"\x80\x02j" + u4(2**31) + b".",
    "text of 2**62 bytes": b"\x80\x04\x8d" + u8(2**62) + b"x.",
    "text of 2 GB": b"\x80\x02X" + u4(2**31) + b"x.",
    "bytes of 8 GB": b"\x80\x04\x8e" + u8(2**33) + b"x.",
    "bytearray of 8 GB": b"\x80\x05\x96" + u8(2**33) + b"x.",
    "long of 2 GB": b"\x80\x02\x8b" + u4(2**31 - 1) + b"x.",
    "frame of 8 GB": b"\x80\x04\x95" + u8(2**33) + b"N.",
    "bytearray(2**40) called": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + u8(2**40)[:6] + b"\x85R.",
    "lists nested": b"\x80\x02" + b"]" * NESTED + b"N" + b"a" * NESTED + b".",
    "tuples nested": b"\x80\x02N" + b"\x85" * NESTED + b".",
    "dicts nested": b"\x80\x02" + b"}U\x01a" * NESTED + b"N" + b"s" * NESTED + b".",
    "marks": b"\x80\x02" + b"(" * NESTED + b".",
    "tuples nested as a key": b"\x80\x02}N" + b"\x85" * (10 * NESTED) + b"Ns.",
    "tuples nested in a set": b"\x80\x02c__builtin__\nset\n]N" + b"\x85" * (10 * NESTED) + b"a\x85R.",
    "tuples nested in an old tuple": b"\x80\x02}" + b"(" * NESTED + b"N" + b"t" * NESTED + b"Ns.",
    "tuples that double as a key": b"\x80\x02}N\x85" + b"q\x00h\x00\x86" * 200 + b"Ns.",
    "lists that double": b"\x80\x02]" + b"q\x00(h\x00h\x00l" * 200 + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a dict that holds itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "a tuple that holds itself": b"\x80\x02]q\x00h\x00\x85q\x01ah\x01.",
    "a namespace in a cycle": b"\x80\x02]q\x00(cargparse\nNamespace\n)\x81h\x00h\x00\x85e.",
    "doubling namespaces": b"\x80\x02cargparse\nNamespace\n)\x81\x85" + b"q\x00h\x00\x86" * 14 + b".",
    "an exponent in a number": b"\x80\x02I" + b"9" * 5000 + b"\n.",
    "an empty pickle": b"",
    "only a protocol": b"\x80\x02",
    "only a stop": b".",
    "an unknown protocol": b"\x80\xffN.",
    "pops too much": b"\x80\x0200000.",
    "an extension code": b"\x80\x02\x84" + u4(77) + b".",
    "a buffer from outside": b"\x80\x05\x97.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_claims_too_much_is_harmless(tmp_path: Path, name: str) -> None:
    """No crash, no endless work and no allocation beyond 200 MB, wherever the pickle stands."""
    bomb = BOMBS[name]
    parts = [dumps(MAGIC), dumps(PROTOCOL), dumps(SYSTEM)]

    def read_all() -> None:
        survive(archive(tmp_path / "a.pth", bomb))
        survive(legacy(tmp_path / "b.pth", [*parts, bomb]))
        survive(legacy(tmp_path / "c.pth", [*parts[:2], bomb]))
        bare = tmp_path / "d.pth"
        bare.write_bytes(bomb)
        survive(bare)

    in_child(read_all)


@pytest.mark.parametrize(
    "name", ["memo index 2**31", "tuples nested as a key", "lists nested", "text of 2**62 bytes"]
)
def test_the_worst_of_them_are_called_damaged(tmp_path: Path, name: str) -> None:
    """The refusal says that the pickle is damaged and in which record it stands."""

    def read() -> None:
        error = linnaeus.verify(archive(tmp_path / "a.pth", BOMBS[name])).error
        assert isinstance(error, CorruptCheckpointError)
        assert error.record == "data.pkl"

    in_child(read)


TENSORS = {
    "shape beyond the storage": tensor_pickle(shape="K\x03\x85"),
    "huge shape": tensor_pickle(shape="\x8a\x08" + "\xff" * 7 + "\x0f\x85"),
    "negative shape": tensor_pickle(shape="J\xff\xff\xff\xff\x85"),
    "shape beyond 64 bits": tensor_pickle(
        shape="K\x00\x8a\x10" + "\xff" * 15 + "\x0f\x86", stride="K\x01K\x01\x86"
    ),
    "shape of texts": tensor_pickle(shape="U\x01a\x85"),
    "shape of a list": tensor_pickle(shape="]"),
    "no shape": tensor_pickle(shape="N"),
    "stride beyond the storage": tensor_pickle(stride="M\xff\xff\x85"),
    "negative stride": tensor_pickle(stride="J\xff\xff\xff\xff\x85"),
    "too many strides": tensor_pickle(stride="K\x01K\x01\x86"),
    "a storage larger than its record": tensor_pickle(count=2**31 - 1),
    "a storage smaller than its record": tensor_pickle(count=1, shape="K\x01\x85"),
    "a storage of negative size": tensor_pickle(count=-1),
    "a storage without a record": tensor_pickle(key="9"),
    "a storage that names another record": tensor_pickle(key="../version"),
    "a storage that names the system": tensor_pickle(key="/etc/passwd"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_does_not_fit_its_bytes_is_damage(tmp_path: Path, name: str) -> None:
    """Shapes, strides, sizes and places that the bytes don't bear out are refused before torch sees them."""
    path = archive(tmp_path / "x.pth", TENSORS[name], DATA)
    report = linnaeus.verify(path)
    assert isinstance(report.error, CorruptCheckpointError), name
    for read in (linnaeus.load, linnaeus.describe):
        with pytest.raises(CorruptCheckpointError):
            read(path)


def test_the_same_tensor_told_rightly_is_read(tmp_path: Path) -> None:
    """The files above fail for their one lie, not for how they are made."""
    path = archive(tmp_path / "x.pth", tensor_pickle(), DATA)
    assert linnaeus.verify(path).ok
    assert torch.equal(linnaeus.load(path), torch.zeros(2))


@pytest.mark.parametrize(
    "name", ["shape beyond the storage", "huge shape", "stride beyond the storage", "shape of texts"]
)
def test_a_tensor_of_the_old_format_is_held_to_its_bytes_too(tmp_path: Path, name: str) -> None:
    """The old format's tensors may not reach outside their storages either."""
    parts = [dumps(MAGIC), dumps(PROTOCOL), dumps(SYSTEM), TENSORS[name].replace(b"K\x02tQ", b"K\x02NtQ")]
    path = legacy(tmp_path / "x.pth", parts, ["0"], struct.pack("<q", 2) + bytes(8))
    assert isinstance(linnaeus.verify(path).error, CorruptCheckpointError)


@pytest.mark.parametrize("count", [1, 3, -1, 2**62])
def test_an_old_storage_of_another_size_is_damage(tmp_path: Path, count: int) -> None:
    """The element count before a storage's bytes must be the one that its pickle tells."""
    parts = [dumps(MAGIC), dumps(PROTOCOL), dumps(SYSTEM), tensor_pickle()]
    path = legacy(tmp_path / "x.pth", parts, ["0"], struct.pack("<q", count) + bytes(8))
    with pytest.raises(CorruptCheckpointError, match="storage 0 is missing or of another size"):
        linnaeus.load(path)


@pytest.mark.parametrize(
    "name", ["../../escape", "/etc/escape", "a/../../../escape", "..\\escape", "nul\0name", "C:\\escape"]
)
def test_record_names_that_escape_touch_nothing(tmp_path: Path, name: str) -> None:
    """Records are never unpacked, so a name leads nowhere."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    path = archive(inner / "x.pth", tensor_pickle(), DATA | {name: b"evil"})
    before = sorted(tmp_path.rglob("*"))
    survive(path)
    outside = inner / "y.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(outside, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info.filename))
        target.writestr(name, b"evil")
    survive(outside)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, outside])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice_is_damage(tmp_path: Path) -> None:
    """Which of two records a reader takes must not decide what is loaded."""
    path = archive(tmp_path / "x.pth", tensor_pickle(), DATA)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/0", b"\1" * 8)
    with pytest.raises(CorruptCheckpointError, match="there twice"):
        linnaeus.load(path)


def test_compressed_and_encrypted_archives_are_not_read(tmp_path: Path) -> None:
    """A small file that unpacks to gigabytes is not unpacked."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(UnsupportedFormatError, match="compressed or encrypted"):
        linnaeus.load(path)
    whole = archive(path, tensor_pickle(), DATA).read_bytes()
    path.write_bytes(
        whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    )
    with pytest.raises(UnsupportedFormatError, match="compressed or encrypted"):
        linnaeus.load(path)


def directory_fields(path: Path) -> list[int]:
    """Return the positions of an archive's directory entries."""
    data, found, start = path.read_bytes(), [], 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        found.append(start)
        start += 4
    return found


@pytest.mark.parametrize(("field", "size"), [(20, 4), (24, 4), (42, 4), (28, 2), (30, 2), (32, 2), (16, 4)])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_directory_with_lying_sizes_and_offsets_is_refused(
    tmp_path: Path, field: int, size: int, value: int
) -> None:
    """Sizes, offsets, name lengths and checksums are held against the file before they are used."""
    path = archive(tmp_path / "x.pth", tensor_pickle(), DATA)
    whole = path.read_bytes()
    for entry in directory_fields(path):
        lying = bytearray(whole)
        lie = (value & (256**size - 1)).to_bytes(size, "little")
        if lying[entry + field : entry + field + size] == lie:
            continue
        lying[entry + field : entry + field + size] = lie
        path.write_bytes(lying)
        survive(path)
        report = linnaeus.verify(path)
        assert not report.ok or torch.equal(linnaeus.load(path), torch.zeros(2))


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format":1}',
        b'{"format":1,"about":[],"tensors":[]}', b'{"format":1,"about":{},"tensors":[{}]}',
        b'{"format":1,"about":{},"tensors":[{"name":"","dtype":"float32","shape":[1e400],"stride":[1],"offset":0,"record":"data/0"}]}',
        b'{"format":1,"about":{},"tensors":[]}', b'{"format":1,"about":{},"tensors":{"a":1}}',
        b'{"format":' + b"9" * 5000 + b"}",
    ],
    ids=lambda document: document[:40].decode("latin-1"),
)  # fmt: skip
def test_a_description_that_is_none_is_damage(tmp_path: Path, document: bytes) -> None:
    """linnaeus.json is believed only where it says what the content says."""
    path = archive(tmp_path / "x.pth", tensor_pickle(), DATA | {"linnaeus.json": document})
    with pytest.raises(CorruptCheckpointError) as caught:
        linnaeus.describe(path)
    assert caught.value.record == "linnaeus.json"


@pytest.mark.parametrize("holder", ['{"$set":[%s]}', '{"$dict":[[%s,1]]}'])
def test_a_key_that_would_take_ages_to_hash_is_refused(tmp_path: Path, holder: str) -> None:
    """Sixty tuples, each of the one before twice: to hash the last is to hash 2**60 values."""
    doubling = ['{"$tuple":[1]}', *(f'{{"$tuple":[{{"$same":{n}}},{{"$same":{n}}}]}}' for n in range(1, 61))]
    last = holder % '{"$same":61}'
    tree = json.loads(f"[{','.join(doubling)},{last}]")

    def read() -> None:
        with pytest.raises(CorruptCheckpointError, match="a key is too large"):
            load_described(tmp_path / "x.pth", Document({}, {}, [], [], tree), lambda _: None)

    in_child(read)


def test_a_description_of_a_newer_version_is_unsupported(tmp_path: Path) -> None:
    """A newer format is told apart from damage, with what to do."""
    path = archive(
        tmp_path / "x.pth", tensor_pickle(), DATA | {"linnaeus.json": json.dumps({"format": 2}).encode()}
    )
    with pytest.raises(UnsupportedFormatError, match="pip install --upgrade linnaeus"):
        linnaeus.describe(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_damage_without_checksums_is_never_a_crash(tmp_path: Path) -> None:
    """Any byte changed in a pickle that no checksum guards gives an error of linnaeus or a loaded object."""
    import random

    stream = random.Random(7)
    tree = {"model": {"w": torch.ones(2, 2)}, "step": 3, "config": {"a": [1, "b", 2.5, None]}, "c": 1j}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tree, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    torch.save(tree, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    pickles = {"a.pth": (60, 400), "b.pth": (0, 800)}
    for name, (start, end) in pickles.items():
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / "x.pth"
        for _ in range(700):
            data = bytearray(whole)
            for _ in range(stream.choice([1, 1, 1, 2, 5])):
                data[stream.randrange(start, min(end, len(data)))] = stream.randrange(256)
            path.write_bytes(data)
            for read in (linnaeus.verify, linnaeus.describe, linnaeus.load):
                with contextlib.suppress(LinnaeusError):
                    read(path)
