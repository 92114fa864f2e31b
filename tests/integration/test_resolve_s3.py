"""Resolving from an S3 bucket that is a remote of the user's rclone.conf; the server is rclone's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from linnaeus.errors import CheckpointNotFoundError, RemoteAuthError, RemoteError
from linnaeus.resolving import resolve_in
from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path
from support.buckets import BUCKET, PREFIX, remote_bucket
from support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, serve_s3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, checkpoint_bytes: bytes) -> Iterator[S3Server]:
    """An S3 server whose one bucket holds x.pth."""
    root = tmp_path_factory.mktemp("s3")
    (root / BUCKET / PREFIX).mkdir(parents=True)
    (root / BUCKET / PREFIX / "x.pth").write_bytes(checkpoint_bytes)
    with serve_s3(root) as server:
        yield server


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Path:
    """The user's rclone.conf, with the remote mys3."""
    path = tmp_path / "rclone.conf"
    path.write_text(s3.config_text("mys3"))
    monkeypatch.setenv("RCLONE_CONFIG", str(path))
    return path


@pytest.mark.usefixtures("conf")
@pytest.mark.parametrize("remote", ["mys3", "mys3:"])
def test_a_remote_of_rclone_conf_is_used(cache, checkpoint_bytes, remote):
    """REMOTE names it, and the file arrives."""
    assert resolve_in("x.pth", str(cache), remote_bucket(remote)) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


def test_a_remote_may_be_defined_in_the_environment(s3, cache, monkeypatch, checkpoint_bytes):
    """RCLONE_CONFIG_<REMOTE>_... of the user define it as well as a file."""
    settings = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": s3.endpoint}
    settings |= {"ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET_KEY}
    for name, value in settings.items():
        monkeypatch.setenv(f"RCLONE_CONFIG_ENVS3_{name}", value)
    resolve_in("x.pth", str(cache), remote_bucket("envs3"))
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


@pytest.mark.usefixtures("conf")
def test_the_older_spelling_names_a_remote_and_a_bucket(cache, checkpoint_bytes):
    """REMOTE and BUCKET of earlier configs, in the documented call."""
    bucket = {"ENABLED": True, "REMOTE": "mys3", "BUCKET": BUCKET}
    assert resolve_checkpoint_path("x.pth", str(cache), bucket) == str(cache / "x.pth")
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


@pytest.mark.usefixtures("conf")
def test_a_missing_file_names_the_nearest(cache):
    """A miss names the remote's bucket and what is nearest in it."""
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pht", str(cache), remote_bucket("mys3"))
    assert caught.value.places[1] == f"not in bucket mys3:{BUCKET} under {PREFIX}"
    assert caught.value.nearest == ["x.pth"]


@pytest.mark.usefixtures("conf")
def test_a_missing_bucket_is_said_so(cache, s3):
    """A mistyped NAME is told from an empty bucket."""
    with pytest.raises(CheckpointNotFoundError, match="bucket mys3:nosuch under modelZoo/ does not exist"):
        resolve_in("x.pth", str(cache), remote_bucket("mys3", NAME="nosuch"))
    assert not (s3.root / "nosuch").exists()


def test_a_wrong_secret_is_refused_at_once(s3, conf, cache):
    """A refusal is not tried again, and the error shows no part of the key."""
    conf.write_text(s3.config_text("mys3", secret="wr0ngSecretKey"))
    with pytest.raises(RemoteAuthError) as caught:
        resolve_in("x.pth", str(cache), remote_bucket("mys3", RETRIES=4))
    assert caught.value.attempts == 1
    assert "wr0ngSecretKey" not in f"{caught.value!r}{caught.value}"


def test_a_server_that_is_gone_is_unreachable(conf, cache):
    """Nobody listening is an error that counts its attempts."""
    text = conf.read_text()
    endpoint = next(line for line in text.splitlines() if line.startswith("endpoint"))
    conf.write_text(text.replace(endpoint, "endpoint = http://127.0.0.1:9"))
    with pytest.raises(RemoteError) as caught:
        resolve_in("x.pth", str(cache), remote_bucket("mys3", RETRIES=2))
    assert type(caught.value) is RemoteError
    assert caught.value.attempts == 2
