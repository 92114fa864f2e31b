"""Resolving from a directory that serves as a bucket, through the real rclone."""

import pytest

from linnaeus.errors import CheckpointNotFoundError, ConfigError, RemoteError
from linnaeus.resolving import resolve_in
from support.buckets import PREFIX, directory_bucket, remote_bucket
from support.directories import content


def test_a_file_is_copied_from_the_directory(local_bucket, cache, checkpoint_bytes):
    """NAME/PATH_PREFIX/filename arrives in the cache, and the bucket is left as it is."""
    before = content(local_bucket)
    path = resolve_in("x.pth", str(cache), directory_bucket(local_bucket))
    assert path == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes
    assert content(local_bucket) == before


def test_no_credentials_and_no_rclone_conf_are_needed(local_bucket, cache, monkeypatch, tmp_path):
    """A directory works for somebody who has never configured anything."""
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    resolve_in("x.pth", str(cache), directory_bucket(local_bucket))
    assert not (tmp_path / "none").exists()


def test_links_for_people_are_followed(local_bucket, cache, checkpoint_bytes):
    """`best.pth` of a run's directory stands for the checkpoint that it points to."""
    (local_bucket / PREFIX / "best.pth").symlink_to("x.pth")
    resolve_in("best.pth", str(cache), directory_bucket(local_bucket))
    assert not (cache / "best.pth").is_symlink()
    assert (cache / "best.pth").read_bytes() == checkpoint_bytes


@pytest.mark.parametrize("name", ["with space", "a:b", "-dash", "a,b=c", "é{x}*[0]", "quo\"te'"])
def test_any_directory_will_do(tmp_path, cache, checkpoint_bytes, name):
    """What is special to rclone or a shell is nothing special in a bucket's path."""
    (tmp_path / name / PREFIX).mkdir(parents=True)
    (tmp_path / name / PREFIX / "x.pth").write_bytes(checkpoint_bytes)
    resolve_in("x.pth", str(cache), directory_bucket(tmp_path / name))
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


def test_a_relative_directory_is_one_here(local_bucket, cache, monkeypatch):
    """NAME may be relative to where the program runs."""
    monkeypatch.chdir(local_bucket.parent)
    resolve_in("x.pth", str(cache), directory_bucket(local_bucket, NAME="bucket"))
    assert (cache / "x.pth").is_file()


def test_a_relative_cache_is_one_here(local_bucket, cache, monkeypatch):
    """CACHE_DIR may be relative too; the path given back leads to the file from here."""
    monkeypatch.chdir(cache.parent)
    assert resolve_in("x.pth", "cache", directory_bucket(local_bucket)) == "cache/x.pth"
    assert (cache / "x.pth").is_file()


def test_a_file_that_is_not_there_names_both_places(local_bucket, cache):
    """A miss tells the cache, the directory and the nearest name in it."""
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pht", str(cache), directory_bucket(local_bucket))
    assert caught.value.places == [f"not in the cache {cache}", f"not in directory {local_bucket}/modelZoo"]
    assert caught.value.nearest == ["x.pth"]


def test_a_directory_that_is_not_there_is_said_so(tmp_path, cache):
    """A mistyped NAME is told from an empty bucket, and is not made."""
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pth", str(cache), directory_bucket(tmp_path / "none"))
    assert caught.value.places[1] == f"directory {tmp_path}/none/modelZoo does not exist"
    assert not (tmp_path / "none").exists()


def test_a_remote_that_rclone_conf_does_not_have_is_a_mistake_in_the_config(cache):
    """The error names the key, the remote, and how to list those there are."""
    with pytest.raises(ConfigError, match=r"BUCKET\.REMOTE.*nosuch.*rclone listremotes"):
        resolve_in("x.pth", str(cache), remote_bucket("nosuch"))


def test_a_directory_in_the_place_of_the_file_is_no_file(local_bucket, cache):
    """A folder named like a checkpoint is not downloaded."""
    (local_bucket / PREFIX / "folder.pth").mkdir()
    with pytest.raises((CheckpointNotFoundError, RemoteError)):
        resolve_in("folder.pth", str(cache), directory_bucket(local_bucket))
    assert not (cache / "folder.pth").exists()
