"""Small files of every format version, whole and each with one thing broken: the refusal, to its message."""

from __future__ import annotations

import json
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import (
    CheckpointInvalidError,
    CorruptCheckpointError,
    IncompatibleWeightsError,
    UnsupportedFormatError,
)
from support.trees import same

KINDS = ["linnaeus", "torch.save", "torch.save, format before 1.6"]


def tree() -> dict[str, Any]:
    """Return a small state."""
    return {
        "model": {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.float16)},
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}},
        "epoch": 3,
    }


def write(kind: str, path: Path) -> Path:
    """Write the state in one of the formats, as its own writer does."""
    if kind == "linnaeus":
        linnaeus.save(tree(), path, about={"epoch": 3})
    else:
        torch.save(tree(), path, _use_new_zipfile_serialization=kind == "torch.save")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for the file under test."""
    return tmp_path / "x.pth"


def refusal(path: Path) -> CheckpointInvalidError:
    """Check that verify, describe and load refuse a file for the same reason, and return it."""
    report = linnaeus.verify(path)
    assert not report.ok
    assert report.error is not None
    with pytest.raises(type(report.error)) as caught:
        linnaeus.describe(path)
    assert str(caught.value) == str(report.error)
    with pytest.raises(type(report.error)) as caught:
        linnaeus.load(path)
    assert str(caught.value) == str(report.error)
    assert report.error.path == str(path)
    assert str(path) in str(report.error)
    return report.error


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_passes(path: Path, kind: str) -> None:
    """Each format, whole, is verified, described and loaded: the counterpart of all that follows."""
    write(kind, path)
    report = linnaeus.verify(path)
    assert (report.ok, report.kind, report.num_tensors) == (True, kind, 3)
    assert report.size_bytes == path.stat().st_size
    assert linnaeus.describe(path).about == {"epoch": 3}
    assert same(linnaeus.load(path), tree())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(path: Path, kind: str) -> None:
    """Cut at any length, a file is never taken for whole; beyond its first bytes it is called damaged."""
    whole = write(kind, path).read_bytes()
    for length in [*range(0, 200), *range(200, len(whole), 7), len(whole) - 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        error = linnaeus.verify(path).error
        assert error is not None, length
        if length >= 16:
            assert isinstance(error, CorruptCheckpointError), (length, error)
            assert re.search("end|cut short|missing|damaged", error.problem), (length, error)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_appended_are_noticed_or_harmless(path: Path, kind: str) -> None:
    """What a failed transfer adds does not change what is loaded."""
    whole = write(kind, path).read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    report = linnaeus.verify(path)
    if kind == "torch.save, format before 1.6":
        assert isinstance(report.error, CorruptCheckpointError)
        assert "bytes follow its end" in str(report.error)
    assert not report.ok or same(linnaeus.load(path), tree())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_flipped_byte_in_any_record_is_found_and_named(path: Path, kind: str) -> None:
    """The first, middle and last byte of each record: it is found, and its record and tensor are told."""
    whole = write(kind, path).read_bytes()
    with zipfile.ZipFile(path) as file:
        entries = [
            (info.filename.split("/", 1)[1], info.file_size, info.header_offset) for info in file.infolist()
        ]
    tensors = {tensor.record: tensor.name for tensor in reversed(linnaeus.describe(path).tensors)}
    for name, size, header in entries:
        name_bytes, extra_bytes = struct.unpack_from("<HH", whole, header + 26)
        start = header + 30 + name_bytes + extra_bytes
        for position in {start, start + size // 2, start + size - 1} if size else ():
            broken = bytearray(whole)
            broken[position] ^= 0x10
            path.write_bytes(broken)
            error = linnaeus.verify(path).error
            assert isinstance(error, CorruptCheckpointError), (name, position)
            assert (error.record, error.tensor) == (name, tensors.get(name))
            assert "CRC-32" in error.problem
            assert f"record {name}" in str(error)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_no_flipped_bit_changes_what_is_loaded_from_a_verified_file(path: Path, kind: str) -> None:
    """Every byte of the file, headers and directory too: verify finds it, or the state is unchanged."""
    whole = write(kind, path).read_bytes()
    found = 0
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        if linnaeus.verify(path).ok:
            assert same(linnaeus.load(path), tree()), position
        else:
            found += 1
    assert found > len(whole) // 3


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_flipped_byte_in_an_old_file_is_never_a_crash(path: Path) -> None:
    """The old format has no checksums; a changed byte gives an error of linnaeus or a loaded object."""
    whole = write(KINDS[2], path).read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            linnaeus.load(path)
        except CheckpointInvalidError:
            continue


def test_zeros_where_the_data_was_are_found(path: Path) -> None:
    """What a crashed machine leaves of a file: the right size, all zeros, or zeros from some point on."""
    for kind in KINDS:
        whole = write(kind, path).read_bytes()
        path.write_bytes(bytes(len(whole)))
        error = refusal(path)
        assert isinstance(error, CorruptCheckpointError)
        assert "zeros" in str(error)
        path.write_bytes(whole[:512] + bytes(len(whole) - 512))
        assert isinstance(linnaeus.verify(path).error, CorruptCheckpointError)
    whole = write("linnaeus", path).read_bytes()
    start = whole.index(torch.arange(6.0).numpy().tobytes())
    path.write_bytes(whole[:start] + bytes(24) + whole[start + 24 :])
    error = linnaeus.verify(path).error
    assert isinstance(error, CorruptCheckpointError)
    assert error.tensor == "model.w"


def test_an_empty_file_is_told(path: Path) -> None:
    """Nothing is damage, and is called by its name."""
    path.touch()
    error = refusal(path)
    assert isinstance(error, CorruptCheckpointError)
    assert "it is empty" in str(error)


FOREIGN: dict[str, tuple[bytes, str]] = {
    "page": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "web page"),
    "indented page": (b"\n  <html>\n", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "safetensors": (
        struct.pack("<Q", 59) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}     ' + bytes(4),
        "safetensors",
    ),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(60)), "compressed"),
    "tar": (b"x".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.", "a pickle"),
    "json": (b'{"a": 1}', "7b 22 61 22"),
    "text": (b"hello", "68 65 6c 6c 6f"),
    "one byte": (b"P", "50"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "89 50 4e 47"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_called_what_it_is(path: Path, name: str) -> None:
    """What is no checkpoint is unsupported, with a guess at what it is and what would be read."""
    data, guess = FOREIGN[name]
    path.write_bytes(data)
    error = refusal(path)
    assert isinstance(error, UnsupportedFormatError)
    assert guess in error.found
    assert guess in str(error)
    assert "torch.save" in error.supported


def test_another_zip_is_told(path: Path) -> None:
    """A zip archive that is no checkpoint is unsupported, whatever its layout."""
    for names in (
        ["a.txt"],
        ["word/document.xml", "docProps/app.xml"],
        ["x/a.txt"],
        ["a/data.pkl", "b/data/0"],
        [],
    ):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"x")
        error = linnaeus.verify(path).error
        assert isinstance(error, UnsupportedFormatError), names
        assert "zip" in str(error) or "50 4b 05 06" in str(error)


def test_a_torchscript_archive_is_told(path: Path) -> None:
    """A TorchScript archive holds code; it is unsupported and called by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
        except RuntimeError as error:  # a torch from which it was taken out
            pytest.skip(f"torch writes no TorchScript: {error}")
    found = refusal(path)
    assert isinstance(found, UnsupportedFormatError)
    assert "TorchScript" in found.found


def test_a_missing_record_is_told(path: Path) -> None:
    """A file that was repacked without one of its records names it."""
    whole = path.with_name("whole.pth")
    write("linnaeus", whole)
    for gone, expected in (("data/0", "data/0"), ("data.pkl", None), ("linnaeus.json", None)):
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                if not info.filename.endswith("/" + gone):
                    target.writestr(info.filename, source.read(info))
        error = linnaeus.verify(path).error
        if gone == "linnaeus.json":
            assert error is None
            assert same(linnaeus.load(path), tree())
        elif gone == "data.pkl":
            assert isinstance(error, UnsupportedFormatError)
        else:
            assert isinstance(error, CorruptCheckpointError)
            assert error.record == expected
            assert "none are there" in error.problem


def test_a_description_of_other_tensors_is_damage(path: Path) -> None:
    """A file whose linnaeus.json and pickle disagree is not believed in either."""
    whole = path.with_name("whole.pth")
    write("linnaeus", whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("linnaeus.json"):
                document = json.loads(data)
                document["tensors"][0][2] = [3, 2]
                data = json.dumps(document).encode()
            target.writestr(info.filename, data)
    error = refusal(path)
    assert isinstance(error, CorruptCheckpointError)
    assert error.record == "linnaeus.json"


def test_errors_survive_the_way_between_processes(path: Path) -> None:
    """A refusal pickles with all its fields."""
    import pickle

    path.touch()
    error = refusal(path)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.fields()) == (type(error), str(error), error.fields())
    assert not isinstance(again, IncompatibleWeightsError)
