"""Bucket configurations from elsewhere."""

# ruff: noqa: SIM300  # config keys are upper case, which the rule takes for constants

from argparse import Namespace
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from linnaeus.config import BucketConfig, Config, Section, bucket_config_from
from linnaeus.errors import ConfigError


class Node(dict):
    """A dict with attributes, as yacs has it."""

    __getattr__ = dict.__getitem__


def test_none_is_a_disabled_bucket():
    """None means that there is no bucket."""
    assert bucket_config_from(None) == BucketConfig()
    assert bucket_config_from(None).ENABLED is False


def test_our_own_is_taken_as_it_is():
    """The config's own sections need no translation."""
    output = Config().ENV.OUTPUT.BUCKET
    assert bucket_config_from(output) is output


@pytest.mark.parametrize("kind", [dict, Node, SimpleNamespace, Namespace, lambda **keys: Section(keys)])
def test_both_spellings_in_every_kind_of_object(kind):
    """The documented and the older spelling work as attributes and as items, without a warning."""
    new = bucket_config_from(
        kind(ENABLED=True, NAME="zoo", PATH_PREFIX="p", REMOTE="r:", ENDPOINT="http://h")
    )
    assert new == BucketConfig(ENABLED=True, NAME="zoo", PATH_PREFIX="p/", REMOTE="r:", ENDPOINT="http://h")
    old = bucket_config_from(kind(ENABLED=True, REMOTE="r", BUCKET="zoo", APP_KEY_ID="", APP_KEY="K5"))
    assert (old.REMOTE, old.NAME, old.PATH_PREFIX, old.APP_KEY_ID) == ("r", "zoo", "modelZoo/", None)
    assert old.APP_KEY == SecretStr("K5")


def test_keys_that_are_missing_null_or_foreign():
    """Missing and null keys have their defaults; keys that are nothing like ours are ignored."""
    assert bucket_config_from({}) == BucketConfig()
    assert bucket_config_from({"ENABLED": None, "NAME": None, "BUCKET": None, "COLOUR": 3}) == BucketConfig()
    assert bucket_config_from(SimpleNamespace(ENABLED=False)) == BucketConfig()


def test_a_name_in_both_spellings_must_agree():
    """NAME and BUCKET may both be given, with the same value."""
    assert bucket_config_from({"NAME": "a", "BUCKET": "a"}).NAME == "a"
    with pytest.raises(ConfigError, match="BUCKET"):
        bucket_config_from({"NAME": "a", "BUCKET": "b"})


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({"ENABLED": "no"}, "bucket_config.ENABLED"),
        ({"ENABLED": True, "BUCKET": ""}, "bucket_config.NAME"),
        ({"NMAE": "x"}, "bucket_config.NMAE"),
        ({"enabled": True}, "bucket_config.enabled"),
        ({"PATH_PREFIX": "../x"}, "bucket_config.PATH_PREFIX"),
        (SimpleNamespace(BUCKET={"ENABLED": True}), "bucket_config.NAME"),
        ({"NAME": "zoo", "PREFIX": "x/"}, "bucket_config.PREFIX"),
        ({"BUCKET_NAME": "zoo"}, "bucket_config.BUCKET_NAME"),
        (SimpleNamespace(ENABLED=False, NAEM="zoo"), "bucket_config.NAEM"),
        ({"COLOUR": 3}, "bucket_config"),
        ("zoo", "bucket_config"),
        (SimpleNamespace(), "bucket_config"),
    ],
)
def test_what_is_no_bucket_configuration_is_an_error(obj, field):
    """A wrong value, a misspelt key and an object of another kind are refused by name."""
    with pytest.raises(ConfigError) as caught:
        bucket_config_from(obj)
    assert caught.value.field == field


def test_its_errors_hold_no_secret():
    """A key of the wrong type is not shown."""
    with pytest.raises(ConfigError) as caught:
        bucket_config_from({"APP_KEY": ["K5secret"]})
    assert "K5secret" not in str(caught.value)
