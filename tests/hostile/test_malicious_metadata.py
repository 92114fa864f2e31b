"""Directories of shards whose `.metadata` or values ask for code, or lie: refused, nothing is executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import MetadataIndex

import linnaeus
from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsafeCheckpointError
from linnaeus.pth._commit_file import FileSum, compose_commit, read_commit
from linnaeus.runs import list_checkpoints
from support.pickles import Call, dumps


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that each malicious pickle would make."""
    return tmp_path / "canary"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """What torch itself writes."""
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(
            {"model": {"w": torch.arange(12.0).view(3, 4)}, "epoch": 3}, checkpoint_id=tmp_path / "plain"
        )
    return tmp_path / "plain"


READERS: dict[str, Callable[[Path], object]] = {
    "load": linnaeus.load,
    "describe": linnaeus.describe,
    "require": pth.require_valid,
    "sketch": pth.sketch,
    "resume": lambda path: pth.mapped_file(path).__enter__(),
}


def attacks(canary: Path) -> dict[str, Any]:
    """Return what makes the canary when it is unpickled."""
    touch = f"touch {canary}"
    return {
        "os.system": Call("os", "system", touch),
        "posix.system": Call("posix", "system", touch),
        "builtins.eval": Call("builtins", "eval", f"open({str(canary)!r}, 'w').close()"),
        "subprocess.Popen": Call("subprocess", "Popen", ["touch", str(canary)]),
        "torch.load": Call("torch", "load", str(canary)),
        "torch.distributed.checkpoint.metadata.os.system": Call(
            "torch.distributed.checkpoint.metadata", "os.system", touch
        ),
        "builtins.getattr": Call("builtins", "getattr", "x", "y"),
    }


NAMES = sorted(attacks(Path("x")))


def test_the_attacks_are_real(plain: Path, canary: Path) -> None:
    """Torch's own reader would have been caught; the canary proves something."""
    (plain / ".metadata").write_bytes(dumps(Call("os", "system", f"touch {canary}"), 4))
    with pytest.raises((AttributeError, TypeError, dcp.CheckpointException)):
        dcp.FileSystemReader(plain).read_metadata()
    assert canary.exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_metadata_that_asks_for_code_is_refused(
    plain: Path, canary: Path, name: str, reader: str, protocol: int
) -> None:
    """By every way to read it, naming what it asks for; the canary never appears."""
    (plain / ".metadata").write_bytes(dumps(attacks(canary)[name], protocol))
    with pytest.raises(UnsafeCheckpointError) as caught:
        READERS[reader](plain)
    assert name in caught.value.globals
    assert not canary.exists()
    assert not pth.verify(plain).ok


@pytest.mark.parametrize("place", ["planner_data", "state_dict_metadata", "storage_data", "storage_meta"])
def test_code_inside_honest_metadata_is_refused(plain: Path, canary: Path, place: str) -> None:
    """Also where everything else of the metadata is as it should be."""
    metadata = dcp.FileSystemReader(plain).read_metadata()
    setattr(metadata, place, {"x": Call("os", "system", f"touch {canary}")})
    (plain / ".metadata").write_bytes(dumps(metadata, 4))
    for read in READERS.values():
        with pytest.raises(UnsafeCheckpointError, match=r"os\.system"):
            read(plain)
    assert not canary.exists()


def test_ours_with_changed_metadata_is_damaged(tmp_path: Path, canary: Path) -> None:
    """A commit file holds the metadata to its digest; its code is refused by whoever does not look."""
    path = tmp_path / "checkpoint_epoch_1.sharded"
    pth.save_sharded({"model": {"w": torch.ones(3)}}, path, about={"epoch": 1})
    (path / ".metadata").write_bytes(dumps(Call("os", "system", f"touch {canary}"), 4))
    assert not list_checkpoints(tmp_path)[0].is_usable
    for read in READERS.values():
        with pytest.raises(CheckpointInvalidError):
            read(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_asks_for_code_is_refused(plain: Path, canary: Path, name: str) -> None:
    """What torch's own loader would unpickle is read as any checkpoint is."""
    metadata = dcp.FileSystemReader(plain).read_metadata()
    stream = io.BytesIO()
    torch.save(3, stream)
    info = metadata.storage_data[MetadataIndex("epoch")]
    archive = torch_archive(dumps(attacks(canary)[name]))
    (plain / "evil.distcp").write_bytes(archive)
    info.relative_path, info.offset, info.length = "evil.distcp", 0, len(archive)
    (plain / ".metadata").write_bytes(pickle.dumps(metadata))
    for reader in ("load", "require", "sketch", "resume"):
        with pytest.raises(UnsafeCheckpointError):
            READERS[reader](plain)
    assert linnaeus.describe(plain).unsafe == (name,)
    assert not canary.exists()


def torch_archive(data_pickle: bytes) -> bytes:
    """Return an archive as torch.save makes it, around any pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in {"data.pkl": data_pickle, "byteorder": b"little", "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", data)
    return stream.getvalue()


LIES: dict[str, Callable[[Any], object]] = {
    "a file elsewhere": lambda m: setattr(info(m), "relative_path", "../../etc/passwd"),
    "an absolute file": lambda m: setattr(info(m), "relative_path", "/etc/passwd"),
    "no file": lambda m: setattr(info(m), "relative_path", ""),
    "beyond the end": lambda m: setattr(info(m), "offset", 1 << 40),
    "a negative place": lambda m: setattr(info(m), "offset", -5),
    "a huge tensor": lambda m: setattr(kept(m), "size", torch.Size([1 << 40, 4])),
    "a larger part": lambda m: setattr(kept(m).chunks[0], "sizes", torch.Size([4, 4])),
    "a part outside": lambda m: setattr(kept(m).chunks[0], "offsets", torch.Size([1, 0])),
    "another dtype": lambda m: setattr(kept(m).properties, "dtype", torch.float64),
    "parts that overlap": lambda m: kept(m).chunks.append(kept(m).chunks[0]),
    "no parts": lambda m: kept(m).chunks.clear(),
    "no such place": lambda m: m.storage_data.clear(),
    "no storage data": lambda m: setattr(m, "storage_data", None),
    "texts for records": lambda m: setattr(m, "state_dict_metadata", {"model.w": "x"}),
    "a path of a billion": lambda m: m.planner_data.update({"model.w": ("model", 10**9)}),
    "no path": lambda m: m.planner_data.update({"model.w": ()}),
    "no metadata": lambda m: m.__dict__.clear(),
}


def kept(metadata: Any) -> Any:
    """Return what the metadata says of the tensor."""
    return metadata.state_dict_metadata["model.w"]


def info(metadata: Any) -> Any:
    """Return where the metadata says that the tensor is."""
    return next(value for key, value in metadata.storage_data.items() if key.fqn == "model.w")


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lies_is_damaged(plain: Path, lie: str) -> None:
    """Whatever it claims, the answer is an error of ours, at once and without much memory."""
    metadata = dcp.FileSystemReader(plain).read_metadata()
    LIES[lie](metadata)
    (plain / ".metadata").write_bytes(pickle.dumps(metadata))
    assert not pth.verify(plain).ok
    for reader in ("load", "resume"):
        with pytest.raises(CheckpointInvalidError):
            with_content(READERS[reader](plain))


def with_content(found: Any) -> None:
    """Read all that an open checkpoint has."""
    if hasattr(found, "content"):
        found.ready(found.content["model"].values())


def test_cut_or_altered_metadata_is_damaged(plain: Path) -> None:
    """Cut anywhere, or with any byte changed, it is an error of ours or tells the same."""
    data = (plain / ".metadata").read_bytes()
    whole = linnaeus.load(plain)["model"]["w"]
    for number in range(0, len(data), 7):
        (plain / ".metadata").write_bytes(data[:number])
        with pytest.raises(CheckpointInvalidError):
            linnaeus.load(plain)
        (plain / ".metadata").write_bytes(data[:number] + bytes([data[number] ^ 0x15]) + data[number + 1 :])
        try:
            found = linnaeus.load(plain)
        except CheckpointInvalidError:
            continue
        same = [value for value in found.values() if isinstance(value, dict)]
        assert all(torch.equal(one["w"], whole) for one in same if "w" in one)


def test_a_pickle_can_change_nothing_of_the_reader(plain: Path) -> None:
    """States that are set on the classes a pickle is given are gone with it."""
    good = (plain / ".metadata").read_bytes()
    evil = pickle.PROTO + b"\x04" + pickle.GLOBAL + b"torch.distributed.checkpoint.metadata\nMetadata\n"
    evil += pickle.NONE + b"}U\x0c__setstate__Ns" + pickle.TUPLE2 + pickle.BUILD + pickle.STOP
    (plain / ".metadata").write_bytes(evil)
    with pytest.raises(CheckpointInvalidError):
        linnaeus.load(plain)
    (plain / ".metadata").write_bytes(good)
    assert linnaeus.load(plain)["epoch"] == 3


def test_a_shard_may_be_no_link(plain: Path, tmp_path: Path) -> None:
    """A shard that is a symbolic link to a file elsewhere is not followed."""
    shard = next(plain.glob("*.distcp"))
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointInvalidError):
        linnaeus.load(plain)


def test_a_commit_file_cannot_point_elsewhere(tmp_path: Path) -> None:
    """Names in it are of files beside it."""
    (tmp_path / "linnaeus.json").write_bytes(
        compose_commit(b'{"format":1}', {"../x": FileSum(1, "0" * 64)}, [])
    )
    with pytest.raises(CorruptCheckpointError):
        read_commit(tmp_path)
