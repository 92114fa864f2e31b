"""From a bucket's configuration to the bucket: names, settings, and what is refused at once."""

from pathlib import Path

import pytest

from linnaeus.config import BucketConfig
from linnaeus.errors import ConfigError, RemoteAuthError
from linnaeus.remote import open_remote

KEYS = {"B2_APPLICATION_KEY_ID": "0012idid", "B2_APPLICATION_KEY": "K001keykey"}


@pytest.fixture
def keys(monkeypatch):
    """Credentials in the environment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def bucket(**values):
    """Return an enabled bucket's configuration."""
    return BucketConfig(ENABLED=True, **values)


@pytest.mark.usefixtures("keys")
def test_the_documented_bucket_is_on_backblaze():
    """NAME and PATH_PREFIX alone mean B2, with the credentials of the environment."""
    remote = open_remote(bucket(NAME="linnaeus-checkpoints", PATH_PREFIX="modelZoo/"))
    assert remote.root == "linnaeus:linnaeus-checkpoints/modelZoo/"
    assert remote.bucket_root == "linnaeus:linnaeus-checkpoints"
    assert remote.place == "bucket linnaeus-checkpoints under modelZoo/"
    assert remote.settings == {
        "RCLONE_CONFIG_LINNAEUS_TYPE": "b2",
        "RCLONE_CONFIG_LINNAEUS_ACCOUNT": "0012idid",
        "RCLONE_CONFIG_LINNAEUS_KEY": "K001keykey",
    }


@pytest.mark.usefixtures("keys")
def test_keys_in_the_configuration_come_first():
    """Configs of earlier versions that hold the key work, and an endpoint is passed on."""
    given = bucket(APP_KEY_ID="0099other", APP_KEY="K009other", ENDPOINT="http://h:1", PATH_PREFIX="")
    remote = open_remote(given)
    assert remote.settings["RCLONE_CONFIG_LINNAEUS_ACCOUNT"] == "0099other"
    assert remote.settings["RCLONE_CONFIG_LINNAEUS_KEY"] == "K009other"
    assert remote.settings["RCLONE_CONFIG_LINNAEUS_ENDPOINT"] == "http://h:1"
    assert remote.place == "bucket linnaeus-checkpoints"


@pytest.mark.usefixtures("keys")
def test_no_secret_is_in_its_repr():
    """A remote in a log or a traceback shows no key."""
    shown = repr(open_remote(bucket(APP_KEY="K009other")))
    assert not [secret for secret in (*KEYS.values(), "K009other") if secret in shown]


@pytest.mark.parametrize("missing", [list(KEYS), ["B2_APPLICATION_KEY"], ["B2_APPLICATION_KEY_ID"]])
@pytest.mark.usefixtures("keys")
def test_missing_credentials_are_named_before_anything_is_tried(monkeypatch, missing):
    """The error names each variable that is not set, and counts no attempt."""
    for name in missing:
        monkeypatch.setenv(name, "") if name == "B2_APPLICATION_KEY" else monkeypatch.delenv(name)
    with pytest.raises(RemoteAuthError) as caught:
        open_remote(bucket())
    assert caught.value.attempts == 0
    assert caught.value.tail == f"{' and '.join(missing)} not set"


def test_a_remote_of_rclone_conf_needs_no_key():
    """REMOTE names it, with or without its colon, and rclone.conf is then read."""
    for given in ("mys3", "mys3:"):
        remote = open_remote(bucket(REMOTE=given, NAME="zoo", PATH_PREFIX="p/"))
        assert (remote.root, remote.bucket_root) == ("mys3:zoo/p/", "mys3:zoo")
        assert remote.place == "bucket mys3:zoo under p/"
        assert remote.uses_config_file


def test_a_directory_is_a_bucket():
    """`:local:` takes NAME for a directory, of the home too, and reads no rclone.conf."""
    remote = open_remote(bucket(REMOTE=":local:", NAME="~/zoo", PATH_PREFIX="p/"))
    assert remote.place == f"directory {Path.home()}/zoo/p"
    assert remote.root.endswith(f":{Path.home()}/zoo/p/")
    assert remote.bucket_root.endswith(f":{Path.home()}/zoo")
    assert not remote.uses_config_file


@pytest.mark.parametrize("given", ["a:b", ":s3:", ":local:/tmp", "a/b", "x,y", ":", "a,opt=K00:"])
def test_other_remotes_are_refused(given):
    """Connection strings and paths are no remote's name, and are not shown in full."""
    with pytest.raises(ConfigError) as caught:
        open_remote(bucket(REMOTE=given))
    assert "K00" not in str(caught.value)


def test_patience_is_as_configured():
    """Retries and deadlines come from the configuration; there always is one try."""
    remote = open_remote(bucket(REMOTE="r", RETRIES=7, IDLE_TIMEOUT_SECONDS=3.0, TOTAL_TIMEOUT_SECONDS=9.0))
    assert remote.retry.attempts == 7
    assert (remote.deadlines.idle, remote.deadlines.total) == (3.0, 9.0)
    assert open_remote(bucket(REMOTE="r", RETRIES=0)).retry.attempts == 1
