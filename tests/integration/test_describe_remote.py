"""A checkpoint in a bucket is looked into without fetching it."""

import io

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.resolving import describe
from support.buckets import BUCKET, PREFIX, b2_bucket


def config(server, cache):
    """Return the config of a run that uses the server's bucket."""
    bucket = b2_bucket(server)
    plain = {key: value for key, value in dict(bucket).items() if not key.startswith("APP_KEY")}
    return linnaeus.Config.from_plain({"ENV": {"INPUT": {"CACHE_DIR": str(cache), "BUCKET": plain}}})


def test_a_large_file_is_told_by_kilobytes(b2, cache):
    """Names and shapes of a published file, without the tensors, and nothing is put into the cache."""
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(3_000_000), "b": torch.ones(2, 3)}}, buffer)
    b2.put(BUCKET, f"{PREFIX}big.pth", buffer.getvalue())
    found = describe("big.pth", config(b2, cache))
    assert [(t.name, t.shape) for t in found.tensors] == [("model.a", (3_000_000,)), ("model.b", (2, 3))]
    assert b2.bytes_served(f"{PREFIX}big.pth") < 600 << 10
    assert not cache.exists()


def test_what_is_in_the_cache_is_read_there(b2, cache, checkpoint_bytes):
    """The bucket is not asked."""
    cache.mkdir()
    (cache / "y.pth").write_bytes(checkpoint_bytes)
    assert describe("y.pth", config(b2, cache)).keys == ("model", "epoch")
    assert b2.requests == []


def test_what_is_nowhere_is_not_found(b2, cache):
    """As when it is resolved."""
    with pytest.raises(CheckpointNotFoundError):
        describe("nosuch.pth", config(b2, cache))


def test_a_pinned_name_is_looked_up_by_its_name(b2, cache):
    """The digest behind it is no part of it; what it holds to is compared when the file is fetched."""
    pinned = f"x.pth@sha256:{'0' * 64}"
    assert describe(pinned, config(b2, cache)).keys == ("model", "epoch")


def test_offline_no_look_goes_out(b2, cache):
    """What is not here is not found."""
    cfg = config(b2, cache).to_plain()
    cfg["ENV"]["INPUT"]["OFFLINE"] = True
    with pytest.raises(CheckpointNotFoundError, match="OFFLINE"):
        describe("x.pth", linnaeus.Config.from_plain(cfg))
    assert b2.requests == []
