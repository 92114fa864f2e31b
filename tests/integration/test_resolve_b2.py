"""The resolution process against a Backblaze B2 server, sentence by sentence of its documentation."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import linnaeus
from linnaeus.config import load_config
from linnaeus.errors import CheckpointNotFoundError
from linnaeus.resolving import resolve_in
from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import names, tree

DOCUMENTED = """
ENV:
  INPUT:
    CACHE_DIR: "{cache}"
    BUCKET:
      ENABLED: {enabled}
      NAME: "linnaeus-checkpoints"
      PATH_PREFIX: "modelZoo/"
      ENDPOINT: "{endpoint}"
"""


class Node(dict):
    """A dict with attributes, as yacs has it."""

    __getattr__ = dict.__getitem__


def documented_config(path: Path, cache: Path, server: B2Server, *, enabled: bool = True):
    """Return the documented YAML, read, with the test server's address."""
    path.write_text(DOCUMENTED.format(cache=cache, endpoint=server.endpoint, enabled=enabled))
    return load_config(path)


def test_an_absolute_path_is_used_directly(b2, cache, checkpoint_file):
    """No request is made for a file that is named by its path."""
    assert resolve_in(str(checkpoint_file), str(cache), b2_bucket(b2)) == str(checkpoint_file)
    assert b2.requests == []


def test_a_file_in_the_cache_is_used_without_asking_the_bucket(b2, cache):
    """What is cached is found without a request, even where the bucket holds other content."""
    cache.mkdir()
    (cache / "x.pth").write_bytes(b"mine")
    assert resolve_in("x.pth", str(cache), b2_bucket(b2)) == str(cache / "x.pth")
    assert b2.requests == []
    assert (cache / "x.pth").read_bytes() == b"mine"


def test_a_missing_file_is_downloaded_to_the_cache_and_used(b2, cache, checkpoint_bytes):
    """The bucket's bytes arrive in the cache under their name, once; then they are a hit."""
    for _ in range(2):
        assert resolve_in("x.pth", str(cache), b2_bucket(b2)) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert b2.count("download") == 1
    assert b2.bytes_served(f"{PREFIX}x.pth") == len(checkpoint_bytes)


def test_the_cache_stays_flat_and_clean(b2, tmp_path):
    """Its directories are made; what is visible in it are checkpoints, and no download is left behind."""
    cache = tmp_path / "deep" / "down" / "cache"
    resolve_in("x.pth", str(cache), b2_bucket(b2))
    assert [name for name in names(cache) if not name.startswith(".")] == ["x.pth"]
    assert [name for name in tree(cache) if not name.endswith(".lock")] == ["x.pth"]


def test_a_disabled_bucket_is_not_asked(b2, cache):
    """Without ENABLED a miss is an error, and no request is made."""
    with pytest.raises(CheckpointNotFoundError, match="the bucket is disabled"):
        resolve_in("x.pth", str(cache), b2_bucket(b2, ENABLED=False))
    assert b2.requests == []


def test_found_in_neither_is_an_error_that_names_both_and_the_nearest(b2, cache):
    """Every place looked at is named, and what the name may have meant, there and here."""
    cache.mkdir()
    (cache / "xx.pth").write_bytes(b"here")
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pht", str(cache), b2_bucket(b2))
    error = caught.value
    assert error.places == [f"not in the cache {cache}", f"not in bucket {BUCKET} under {PREFIX}"]
    assert set(error.nearest) == {"x.pth", "xx.pth"}
    assert "linnaeus ls --remote" in str(error)
    assert [name for name in names(cache) if not name.startswith(".")] == ["xx.pth"]


def test_a_bucket_that_is_not_there_is_told_from_an_empty_one(b2, cache):
    """A mistyped NAME is said to be one, and no bucket is made."""
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pth", str(cache), b2_bucket(b2, NAME="linnaeus-checkpoint"))
    assert caught.value.places[1] == f"bucket linnaeus-checkpoint under {PREFIX} does not exist"
    assert b2.buckets() == [BUCKET]


@pytest.mark.parametrize("prefix", ["", "runs/a b/c/", "modelZoo"])
def test_the_path_prefix_is_honoured(b2, cache, checkpoint_bytes, prefix):
    """The object is NAME/PATH_PREFIX/filename, whatever the prefix, with or without its last slash."""
    place = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    b2.put(BUCKET, f"{place}y.pth", checkpoint_bytes)
    resolve_in("y.pth", str(cache), b2_bucket(b2, PATH_PREFIX=prefix))
    assert (cache / "y.pth").read_bytes() == checkpoint_bytes


@pytest.mark.parametrize(
    "name", ["with space+é.pth", "日" * 83 + ".pth", "a" * 255, "100%.pth", "\uff0e\uff0e", "a:b"]
)
def test_names_arrive_as_they_are(b2, cache, checkpoint_bytes, name):
    """Spaces, other scripts, the longest names and what a bucket quotes are the same here and there."""
    b2.put(BUCKET, f"{PREFIX}{name}", checkpoint_bytes)
    resolve_in(name, str(cache), b2_bucket(b2))
    assert (cache / name).read_bytes() == checkpoint_bytes


@pytest.mark.parametrize("directory", ["with space", "a:b", "-dash", "a,b=c", "é{x}*[0]", "quo\"te'"])
def test_any_cache_directory_will_do(b2, tmp_path, checkpoint_bytes, directory):
    """What is special to rclone or a shell is nothing special in a path."""
    path = resolve_in("x.pth", str(tmp_path / directory), b2_bucket(b2))
    assert path == str(tmp_path / directory / "x.pth")
    assert Path(path).read_bytes() == checkpoint_bytes


def test_a_file_that_was_uploaded_in_parts_arrives(b2, cache, checkpoint_bytes):
    """B2 keeps the checksum of a large file elsewhere; it is found there."""
    b2.put(BUCKET, f"{PREFIX}large.pth", checkpoint_bytes, large=True)
    resolve_in("large.pth", str(cache), b2_bucket(b2))
    assert (cache / "large.pth").read_bytes() == checkpoint_bytes


def test_progress_is_told_to_its_end(b2, cache, checkpoint_bytes):
    """Whoever watches learns the file's name and size, and sees it complete."""
    seen = []
    resolve_in("x.pth", str(cache), b2_bucket(b2), progress=seen.append)
    assert {transfer.name for transfer in seen} == {"x.pth"}
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(checkpoint_bytes)


def test_the_users_settings_for_rclone_have_no_effect(b2, cache, tmp_path, monkeypatch, checkpoint_bytes):
    """RCLONE_DRY_RUN and its like, a broken rclone.conf and a PATH without rclone change nothing."""
    (tmp_path / "rclone.conf").write_text("[linnaeus]\ntype = nonsense\n")
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("RCLONE_MAX_SIZE", "1k")
    monkeypatch.setenv("RCLONE_LOG_FILE", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    resolve_in("x.pth", str(cache), b2_bucket(b2))
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert not (tmp_path / "log").exists()


def test_the_documented_call(b2, cache, tmp_path, checkpoint_bytes):
    """`resolve_checkpoint_path("checkpoint.pth", cache, config.ENV.INPUT.BUCKET)` as documented; a str."""
    b2.put(BUCKET, "modelZoo/checkpoint.pth", checkpoint_bytes)
    config = documented_config(tmp_path / "exp.yaml", cache, b2)
    path = resolve_checkpoint_path(
        "checkpoint.pth",  # Identifier (filename or absolute path)
        str(cache),  # Cache directory
        config.ENV.INPUT.BUCKET,  # Bucket configuration
    )
    assert path == f"{cache}/checkpoint.pth"
    assert type(path) is str
    assert Path(path).read_bytes() == checkpoint_bytes


@pytest.mark.parametrize("kind", [dict, Node, SimpleNamespace])
def test_the_documented_call_takes_any_kind_of_config(b2, cache, checkpoint_bytes, kind):
    """Dicts, yacs nodes and namespaces do as well; paths may be path objects."""
    bucket = kind(ENABLED=True, NAME=BUCKET, PATH_PREFIX=PREFIX, ENDPOINT=b2.endpoint)
    assert resolve_checkpoint_path(Path("x.pth"), cache, bucket) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


@pytest.mark.parametrize("kind", [dict, Node, SimpleNamespace])
def test_the_documented_call_takes_the_older_spelling(b2, cache, checkpoint_bytes, monkeypatch, kind):
    """REMOTE, BUCKET and keys in the config, as earlier versions had it."""
    key_id, key = (b2.env()[name] for name in ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"))
    for name in b2.env():
        monkeypatch.delenv(name)
    bucket = kind(
        ENABLED=True, REMOTE="", BUCKET=BUCKET, APP_KEY_ID=key_id, APP_KEY=key, ENDPOINT=b2.endpoint
    )
    assert resolve_checkpoint_path("x.pth", str(cache), bucket) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


def test_the_documented_call_raises_where_it_fails(b2, cache):
    """It never returns None: a miss is an error that FileNotFoundError catches."""
    bucket = {"ENABLED": False, "NAME": BUCKET, "PATH_PREFIX": PREFIX}
    with pytest.raises(FileNotFoundError):
        resolve_checkpoint_path("x.pth", str(cache), bucket)
    with pytest.raises(FileNotFoundError):
        resolve_checkpoint_path("x.pth", str(cache))
    assert b2.requests == []


def test_the_default_cache_is_used_where_none_is_given(b2, cache, monkeypatch):
    """LINNAEUS_CACHE_DIR decides for a call without a cache directory."""
    monkeypatch.setenv("LINNAEUS_CACHE_DIR", str(cache))
    bucket = {"ENABLED": True, "ENDPOINT": b2.endpoint}
    assert resolve_checkpoint_path("x.pth", bucket_config=bucket) == str(cache / "x.pth")


def test_resolve_by_configuration(b2, cache, tmp_path, checkpoint_bytes):
    """`linnaeus.resolve(name, cfg)` does the same for a whole configuration, and gives a Path."""
    path = linnaeus.resolve("x.pth", documented_config(tmp_path / "exp.yaml", cache, b2))
    assert path == cache / "x.pth"
    assert path.read_bytes() == checkpoint_bytes
    disabled = documented_config(tmp_path / "exp.yaml", cache, b2, enabled=False)
    assert linnaeus.resolve("x.pth", disabled) == path
