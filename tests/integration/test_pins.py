"""A name may be held to one content: by a digest behind it, or by a lock file beside the config."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointNotFoundError, ConfigError, IdentifierError, PinMismatchError
from linnaeus.resolving import lock, read_lock, resolve, resolve_in
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import names

WRONG = "0" * 64


@pytest.fixture
def digest(checkpoint_bytes):
    """The SHA-256 of the checkpoint x.pth."""
    return hashlib.sha256(checkpoint_bytes).hexdigest()


def visible(cache: Path) -> list[str]:
    """Return the files that the cache shows."""
    return [name for name in names(cache) if name[0] != "."]


def test_a_pinned_name_is_fetched_and_found(b2, cache, digest):
    """From the bucket, then from the cache without a request, upper case or lower."""
    for pin in (digest, digest.upper()):
        assert resolve_in(f"x.pth@sha256:{pin}", str(cache), b2_bucket(b2)) == str(cache / "x.pth")
    assert b2.count("download") == 1


def test_other_content_in_the_bucket_is_refused(b2, cache, digest):
    """Both digests are shown, and nothing enters the cache."""
    with pytest.raises(PinMismatchError) as caught:
        resolve_in(f"x.pth@sha256:{WRONG}", str(cache), b2_bucket(b2))
    assert WRONG in str(caught.value)
    assert digest in str(caught.value)
    assert visible(cache) == []


def test_other_content_in_the_cache_is_refused(b2, cache, digest, other_checkpoint_bytes):
    """It is neither used nor replaced, and found out also when it changed after it was recorded."""
    resolve_in(f"x.pth@sha256:{digest}", str(cache), b2_bucket(b2))
    (cache / "x.pth").write_bytes(other_checkpoint_bytes)
    with pytest.raises(PinMismatchError, match=digest):
        resolve_in(f"x.pth@sha256:{digest}", str(cache), b2_bucket(b2))
    assert (cache / "x.pth").read_bytes() == other_checkpoint_bytes


def test_an_absolute_path_may_be_pinned(checkpoint_file, cache, digest, b2):
    """The file itself is compared, and nothing is written beside it."""
    assert resolve_in(f"{checkpoint_file}@sha256:{digest}", str(cache), b2_bucket(b2)) == str(checkpoint_file)
    with pytest.raises(PinMismatchError):
        resolve_in(f"{checkpoint_file}@sha256:{WRONG}", str(cache), b2_bucket(b2))
    assert names(checkpoint_file.parent) == ["x.pth"]


@pytest.mark.parametrize("pin", ["", "abc", "g" * 64, "0" * 63])
def test_what_is_no_digest_is_no_pin(cache, b2, pin):
    """A pin that can't be compared is a mistake."""
    with pytest.raises(IdentifierError, match="64 hex"):
        resolve_in(f"x.pth@sha256:{pin}", str(cache), b2_bucket(b2))


@pytest.fixture
def config_file(tmp_path, b2, cache):
    """A config that names x.pth twice, and its bucket."""
    path = tmp_path / "exp.yaml"
    path.write_text(
        f"ENV: {{INPUT: {{CACHE_DIR: {cache}, BUCKET: {{ENABLED: true, ENDPOINT: '{b2.endpoint}'}}}}}}\n"
        "MODEL: {PRETRAINED_CONVNEXT: x.pth, PRETRAINED_ROPEVIT: y.pth}\n"
    )
    return path


def test_a_lock_holds_later_runs_to_what_it_records(
    config_file, b2, cache, digest, checkpoint_bytes, other_checkpoint_bytes
):
    """Size, digest and source are written beside the config; other content is then an error."""
    b2.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
    written = lock(linnaeus.load_config(config_file), config_file)
    assert read_lock(config_file.with_name("linnaeus.lock")) == written
    assert (written["x.pth"].sha256, written["x.pth"].size_bytes) == (digest, len(checkpoint_bytes))
    assert sorted(written) == ["x.pth", "y.pth"]
    cfg = linnaeus.load_config(config_file)
    assert resolve("x.pth", cfg) == cache / "x.pth"
    (cache / "x.pth").unlink()
    b2.put(BUCKET, f"{PREFIX}x.pth", other_checkpoint_bytes)
    with pytest.raises(PinMismatchError, match=digest):
        resolve("x.pth", cfg)
    assert visible(cache) == ["y.pth"]


def test_a_lock_that_fails_stays_as_it_was(config_file):
    """One name that can't be had, and nothing is written."""
    with pytest.raises(CheckpointNotFoundError, match=r"y\.pth"):
        lock(linnaeus.load_config(config_file), config_file)
    assert not config_file.with_name("linnaeus.lock").exists()


def test_a_pin_and_a_lock_that_differ_are_an_error(config_file, b2, checkpoint_bytes):
    """Neither wins."""
    b2.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
    lock(linnaeus.load_config(config_file), config_file)
    with pytest.raises(PinMismatchError, match=WRONG):
        resolve(f"x.pth@sha256:{WRONG}", linnaeus.load_config(config_file))


@pytest.mark.parametrize(
    "text", ["", "[]", "version: 9\ncheckpoints: {}", "version: 1\ncheckpoints: {x: {}}", "{"]
)
def test_a_broken_lock_is_an_error(config_file, text):
    """Not heeding it would be worse."""
    config_file.with_name("linnaeus.lock").write_text(text)
    with pytest.raises(ConfigError, match="lock"):
        resolve("x.pth", linnaeus.load_config(config_file))


def test_offline_asks_nobody(config_file, b2, cache, checkpoint_bytes):
    """A hit serves; a miss says that nobody was asked."""
    cfg = linnaeus.load_config(config_file, ["ENV.INPUT.OFFLINE=true"])
    cache.mkdir()
    (cache / "y.pth").write_bytes(checkpoint_bytes)
    assert resolve("y.pth", cfg) == cache / "y.pth"
    with pytest.raises(CheckpointNotFoundError, match="OFFLINE"):
        resolve("x.pth", cfg)
    assert b2.requests == []


def test_the_files_of_an_index_are_locked_with_it(b2, cache, tmp_path):
    """A checkpoint in several files is held to all of them."""
    from safetensors.torch import save_file

    cache.mkdir()
    save_file({"a": torch.zeros(3)}, cache / "one.safetensors")
    save_file({"b": torch.ones(3)}, cache / "two.safetensors")
    weights = {"a": "one.safetensors", "b": "two.safetensors"}
    (cache / "m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    config = tmp_path / "exp.yaml"
    config.write_text(
        f"ENV: {{INPUT: {{CACHE_DIR: {cache}}}}}\nMODEL: {{PRETRAINED: m.safetensors.index.json}}\n"
    )
    written = lock(linnaeus.load_config(config), config)
    assert sorted(written) == ["m.safetensors.index.json", "one.safetensors", "two.safetensors"]
    save_file({"b": torch.full((3,), 2.0)}, cache / "two.safetensors")
    with pytest.raises(PinMismatchError, match=r"two\.safetensors"):
        resolve("two.safetensors", linnaeus.load_config(config))
