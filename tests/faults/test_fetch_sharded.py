"""Directories of shards from a bucket into the cache: once, whole, resumed after a cut, pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus import pth
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    PinMismatchError,
    RemoteError,
)
from linnaeus.resolving import lock, read_lock, resolve, resolve_in
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import content, names, tree
from support.processes import resolving, wait_until

NAME = "x.sharded"
WRONG = "0" * 64
MEBIBYTE = 1 << 20
Files = Mapping[str, bytes]


def put(server: B2Server, directory: Path, mebibytes: int = 1, seed: int = 0) -> Files:
    """Put a directory of two tensors into the bucket, and return its files."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, mebibytes * MEBIBYTE // 4, generator=generator)
    pth.save_sharded({"model": {"a": noise[0], "b": noise[1]}}, directory / NAME)
    found = content(directory / NAME)
    for name, data in found.items():
        server.put(BUCKET, f"{PREFIX}{NAME}/{name}", data)
    return found


@pytest.fixture
def files(b2: B2Server, tmp_path: Path) -> Files:
    """The files of a directory that is in the bucket."""
    (tmp_path / "made").mkdir()
    return put(b2, tmp_path / "made")


def served(server: B2Server, files: Files) -> dict[str, int]:
    """Return how many bytes of each file were served."""
    return {name: server.bytes_served(f"{PREFIX}{NAME}/{name}") for name in files}


def shard_of(files: Files) -> str:
    """Return the name of the largest file."""
    return max(files, key=lambda name: len(files[name]))


def visible(cache: Path) -> list[str]:
    """Return what the cache shows."""
    return [name for name in names(cache) if name[0] != "."] if cache.is_dir() else []


def test_many_processes_download_once(b2: B2Server, cache: Path, files: Files) -> None:
    """All get the same path, each byte passes once, and nothing else is left."""
    with resolving(4) as processes:
        for process in processes:
            process.start(NAME, cache, b2_bucket(b2))
        outcomes = [process.outcome() for process in processes]
    assert {outcome.get("path") for outcome in outcomes} == {str(cache / NAME)}, outcomes
    assert served(b2, files) == {name: len(data) for name, data in files.items()}
    assert content(cache / NAME) == files
    assert not [name for name in names(cache / ".linnaeus") if ".part" in name or name.endswith(".tmp")]


def test_they_are_right_without_locks_too(b2: B2Server, cache: Path, files: Files) -> None:
    """Where locks do nothing, several download; each returns the one directory; no other is left."""
    with resolving(4) as processes:
        for process in processes:
            process.start(NAME, cache, b2_bucket(b2), locks=False)
        outcomes = [process.outcome() for process in processes]
    assert {outcome.get("path") for outcome in outcomes} == {str(cache / NAME)}, outcomes
    assert content(cache / NAME) == files
    assert visible(cache) == [NAME]
    assert not [name for name in names(cache / ".linnaeus") if ".part" in name]


def test_what_a_killed_process_had_is_not_fetched_again(b2: B2Server, cache: Path, tmp_path: Path) -> None:
    """Whole shards and parts of a large one are gone on with; until all is there, nothing is to be seen."""
    files = put(b2, tmp_path, mebibytes=10)
    shard = shard_of(files)
    b2.limit_rate(10e6)
    with resolving(1) as (process,):
        process.start(NAME, cache, b2_bucket(b2, IDLE_TIMEOUT_SECONDS=60.0))
        wait_until(lambda: served(b2, files)[shard] >= 0.5 * len(files[shard]))
        b2.fault("download", "stall", after_bytes=0)  # so that it can't be done before it is killed
        process.kill()
    b2.clear_faults()
    assert visible(cache) == []
    b2.limit_rate(1e9)
    resolve_in(NAME, str(cache), b2_bucket(b2))
    assert content(cache / NAME) == files
    assert served(b2, files)[shard] <= 1.1 * len(files[shard])
    assert served(b2, files)[".metadata"] == len(files[".metadata"])


def test_another_directory_under_the_name_is_not_mixed_in(
    b2: B2Server, cache: Path, tmp_path: Path, files: Files
) -> None:
    """What was kept of one that has been replaced in the bucket since is dropped."""
    first = put(b2, tmp_path, mebibytes=10)
    b2.fault("download", "cut", after_bytes=10, name=f"{PREFIX}{NAME}/.metadata")  # when the shard is there
    with pytest.raises(RemoteError):
        resolve_in(NAME, str(cache), b2_bucket(b2))
    b2.clear_faults()
    assert served(b2, first)[shard_of(first)] == len(first[shard_of(first)])
    second = put(b2, tmp_path, mebibytes=10, seed=1)
    resolve_in(NAME, str(cache), b2_bucket(b2))
    assert content(cache / NAME) == second != first


@pytest.mark.parametrize("sha1", [True, False])
@pytest.mark.parametrize("damage", ["another byte", "cut short", "missing"])
def test_what_is_damaged_there_does_not_enter(
    b2: B2Server, cache: Path, files: Files, damage: str, sha1: bool
) -> None:
    """Whether or not the bucket keeps digests: an error that names the file, and nothing in the cache."""
    shard = shard_of(files)
    if damage == "missing":
        delete(b2, shard)
    else:
        data = files[shard][:-1] + (b"x" if damage == "another byte" else b"")
        b2.put(BUCKET, f"{PREFIX}{NAME}/{shard}", data, sha1=sha1)
    with pytest.raises(CorruptCheckpointError, match=shard) as caught:
        resolve_in(NAME, str(cache), b2_bucket(b2))
    assert "not put into the cache" in str(caught.value)
    assert visible(cache) == []
    if damage != "another byte":  # told by the sizes, before anything large is fetched
        assert served(b2, files)[shard] == 0


def delete(server: B2Server, name: str) -> None:
    """Remove a file of the directory from the bucket."""
    from linnaeus.remote import open_remote

    with open_remote(b2_bucket(server)).session() as session:
        session.delete(f"{NAME}/{name}")


def test_one_that_was_never_finished_is_not_found(b2: B2Server, cache: Path, files: Files) -> None:
    """Without its commit file it is no checkpoint; the error says so, and what there is instead."""
    delete(b2, pth.COMMIT)
    with pytest.raises(CheckpointNotFoundError, match="never finished") as caught:
        resolve_in(NAME, str(cache), b2_bucket(b2))
    assert str(cache) in str(caught.value)
    for name, data in files.items():
        b2.put(BUCKET, f"{PREFIX}y.sharded/{name}", data)
    with pytest.raises(CheckpointNotFoundError, match=r"(?s)not in the cache.*Nearest: y\.sharded"):
        resolve_in("z.sharded", str(cache), b2_bucket(b2))


def test_a_pinned_name_is_fetched_and_found(b2: B2Server, cache: Path, files: Files) -> None:
    """The digest of a directory is that of its commit file, in upper case or lower."""
    digest = hashlib.sha256(files[pth.COMMIT]).hexdigest()
    for pin in (digest, digest.upper()):
        assert resolve_in(f"{NAME}@sha256:{pin}", str(cache), b2_bucket(b2)) == str(cache / NAME)
    assert served(b2, files)[shard_of(files)] == len(files[shard_of(files)])


def test_a_wrong_pin_is_refused_before_anything_large_comes(b2: B2Server, cache: Path, files: Files) -> None:
    """Both digests are shown, no shard is fetched, and nothing is left."""
    with pytest.raises(PinMismatchError, match=WRONG) as caught:
        resolve_in(f"{NAME}@sha256:{WRONG}", str(cache), b2_bucket(b2))
    assert hashlib.sha256(files[pth.COMMIT]).hexdigest() in str(caught.value)
    assert served(b2, files)[shard_of(files)] == 0
    assert visible(cache) == []
    assert not [path for path in tree(cache) if ".part" in path or ".tmp" in path]


def test_other_content_in_the_cache_is_refused(b2: B2Server, cache: Path, files: Files) -> None:
    """Another directory of the name is not used; nor is one whose commit file is right and a shard is not."""
    digest = hashlib.sha256(files[pth.COMMIT]).hexdigest()
    resolve_in(NAME, str(cache), b2_bucket(b2))
    with pytest.raises(PinMismatchError):
        resolve_in(f"{NAME}@sha256:{WRONG}", str(cache), b2_bucket(b2))
    shard = cache / NAME / shard_of(files)
    shard.write_bytes(files[shard.name][:-1] + b"x")
    with pytest.raises(CheckpointInvalidError, match=shard.name):
        resolve_in(f"{NAME}@sha256:{digest}", str(cache), b2_bucket(b2))


def test_an_absolute_path_may_be_pinned(b2: B2Server, cache: Path, files: Files, tmp_path: Path) -> None:
    """The directory itself is compared, and nothing is written beside it; one of torch's has no digest."""
    digest, path = hashlib.sha256(files[pth.COMMIT]).hexdigest(), tmp_path / "made" / NAME
    assert resolve_in(f"{path}@sha256:{digest}", str(cache), b2_bucket(b2)) == str(path)
    with pytest.raises(PinMismatchError):
        resolve_in(f"{path}@sha256:{WRONG}", str(cache), b2_bucket(b2))
    assert names(path.parent) == [NAME]
    path.rename(path.with_name("plain"))
    (path.with_name("plain") / pth.COMMIT).unlink()
    with pytest.raises(CheckpointInvalidError, match="no digest"):
        resolve_in(f"{path.with_name('plain')}@sha256:{digest}", str(cache), b2_bucket(b2))


def test_a_lock_holds_later_runs_to_what_it_records(
    b2: B2Server, cache: Path, files: Files, tmp_path: Path
) -> None:
    """Size of all files, digest and source are written beside the config; other content is then an error."""
    config = tmp_path / "exp.yaml"
    bucket = f"BUCKET: {{ENABLED: true, ENDPOINT: '{b2.endpoint}'}}"
    config.write_text(f"ENV: {{INPUT: {{CACHE_DIR: {cache}, {bucket}}}}}\nMODEL: {{PRETRAINED: {NAME}}}\n")
    written = lock(linnaeus.load_config(config), config)
    assert read_lock(config.with_name("linnaeus.lock")) == written
    assert written[NAME].sha256 == hashlib.sha256(files[pth.COMMIT]).hexdigest()
    assert written[NAME].size_bytes == sum(map(len, files.values()))
    assert BUCKET in str(written[NAME].source)
    cfg = linnaeus.load_config(config)
    assert resolve(NAME, cfg) == cache / NAME
    for file in (cache / NAME).iterdir():
        file.unlink()
    (cache / NAME).rmdir()
    put(b2, tmp_path, seed=1)
    with pytest.raises(PinMismatchError, match=written[NAME].sha256):
        resolve(NAME, cfg)
    assert visible(cache) == []
