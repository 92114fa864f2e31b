"""Secrets are never shown."""

import logging
import pickle
import traceback

import pytest
import yaml
from pydantic import ValidationError

from linnaeus.config import BucketConfig, Config, is_secret_name, load_config, redact, secrets_in_environment
from linnaeus.errors import ConfigError

KEY = "K005zzTopSecretValue"


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "WANDB_API_KEY",
        "api-key",
        "apiKey",
        "APP_KEY",
        "APP_KEY_ID",
        "B2_APPLICATION_KEY",
        "CLIENT_SECRET",
        "SECRETS",
        "HF_TOKEN",
        "TOKEN",
        "PASSWORD",
        "DB_PASSWORD_FILE",
        "CREDENTIALS",
        "aws_access_key_id",
        "PASS",
    ],
)
def test_names_that_are_secret(name):
    """Keys that hold secrets are known by their names."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["NAME", "KEY", "NUM_TOKENS", "KEYS", "BYPASS", "PASSES", "TOKENIZER", "MONKEY"]
)
def test_names_that_are_not_secret(name):
    """Ordinary keys are not redacted."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "secrets", "redacted"),
    [
        ("nothing here", ["absent"], "nothing here"),
        ("a KEY1 and KEY1", ["KEY1"], "a *** and ***"),
        ("abcdef", ["abcd", "cdef"], "***"),
        ("aaaaa", ["aaa"], "***"),
        ("abcdefgh", ["abcdefgh", "cdef"], "***"),
        ("longer-key longer", ["longer", "longer-key"], "*** ***"),
        ("q=a%2Fb%2Bc q=a/b%2Bc", ["a/b+c"], "q=*** q=***"),
        ("text", [""], "text"),
        ("x *** y", ["***"], "x *** y"),
        ("https://me:pw@host/x", [], "https://***@host/x"),
        ("https://me:p@w@host/x", [], "https://***@host/x"),
        ("https://tok3n@host/x", [], "https://***@host/x"),
        ("ssh://git@host/x https://host:80/a@b", [], "ssh://git@host/x https://host:80/a@b"),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", [], "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        (
            ":s3,provider=X,secret_access_key='a:b,c',region=y:",
            [],
            ":s3,provider=X,secret_access_key=***,region=y:",
        ),
    ],
)
def test_redact(text, secrets, redacted):
    """Secrets, overlapping and URL-encoded ones too, and passwords in URLs become ***."""
    assert redact(text, secrets) == redacted


def test_secrets_of_the_environment(monkeypatch):
    """The values of credential variables are known, and those of other variables are not."""
    secret = ["B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY", "RCLONE_CONFIG_PASS", "AWS_SECRET_ACCESS_KEY"]
    suffixes = [
        "KEY",
        "PASS",
        "PASSWORD",
        "SECRET_ACCESS_KEY",
        "ACCESS_KEY_ID",
        "TOKEN",
        "CLIENT_SECRET",
        "ACCOUNT",
    ]
    secret += [f"RCLONE_CONFIG_MY_ZOO_{suffix}" for suffix in suffixes] + ["RCLONE_CONFIG_zoo_key"]
    other = ["RCLONE_CONFIG_ZOO_TYPE", "RCLONE_CONFIG_ZOO_ENDPOINT", "RCLONE_BWLIMIT", "RCLONE_CONFIG", "KEY"]
    for number, name in enumerate(secret + other):
        monkeypatch.setenv(name, f"value-{number:02}")
    monkeypatch.setenv("RCLONE_CONFIG_SHORT_KEY", "abc")
    found = set(secrets_in_environment())
    assert {f"value-{number:02}" for number in range(len(secret))} <= found
    assert not {f"value-{number:02}" for number in range(len(secret), len(secret + other))} & found
    assert "abc" not in found


@pytest.fixture
def secretive(monkeypatch):
    """Return a config with a secret in every place that may have one."""
    monkeypatch.setenv("B2_APPLICATION_KEY", "env-secret-1")
    tree = {
        "ENV": {
            "INPUT": {"BUCKET": {"APP_KEY": KEY, "APP_KEY_ID": "id-of-the-key", "ENDPOINT": "http://u:pw@h"}}
        },
        "DATA": {"URL": "https://u:pw@host/", "COPY": f"x{KEY}x", "FROM_ENV": ["env-secret-1"]},
        "EXPERIMENT": {
            "WANDB": {
                "API_KEY": "wandb-key",
                "PASSWORD": 123456,
                "CLS_TOKEN": True,
                "MAX_TOKEN": 5,
                "SECRET": None,
            }
        },
        "MODEL": {"CREDENTIALS": {"user": "somebody", "list": ["hidden"]}},
    }
    with pytest.warns(FutureWarning):
        return Config.from_plain(tree)


HIDDEN = [KEY, "id-of-the-key", "env-secret-1", "u:pw", "wandb-key", "123456", "somebody", "hidden"]


def test_plain_values_hold_no_secret_and_everything_else(secretive):
    """to_plain redacts secrets by key, by value and in URLs, and keeps the rest."""
    plain = secretive.to_plain()
    text = yaml.safe_dump(plain)
    assert not [secret for secret in HIDDEN if secret in text]
    assert plain["ENV"]["INPUT"]["BUCKET"]["APP_KEY"] == "***"
    assert plain["ENV"]["INPUT"]["BUCKET"]["ENDPOINT"] == "http://***@h"
    assert plain["DATA"] == {"URL": "https://***@host/", "COPY": "x***x", "FROM_ENV": ["***"]}
    assert plain["EXPERIMENT"]["WANDB"] == {
        "API_KEY": "***",
        "PASSWORD": "***",
        "CLS_TOKEN": True,
        "MAX_TOKEN": 5,
        "SECRET": None,
    }
    assert plain["MODEL"]["CREDENTIALS"] == {"user": "***", "list": ["***"]}


def test_plain_values_are_plain(secretive):
    """to_plain has only the types that JSON has: no path, no secret's wrapper, no section."""

    def check(value):
        assert type(value) in (dict, list, str, int, float, bool, type(None)), value
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            check(item)

    check(secretive.to_plain())


def test_repr_and_str_hold_no_secret(secretive, caplog):
    """Neither the config nor any of its sections shows a secret when printed or logged."""
    bucket = secretive.ENV.INPUT.BUCKET
    assert not [secret for secret in HIDDEN for show in (repr, str) if secret in show(secretive)]
    for part in (bucket, secretive.ENV, secretive.MODEL, secretive.EXPERIMENT, secretive.EXPERIMENT.WANDB):
        assert not [secret for secret in HIDDEN if secret in repr(part) + str(part) + f"{part}"]
    assert "somebody" not in repr(secretive.MODEL.CREDENTIALS)
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r", secretive, bucket)
    assert KEY not in caplog.text


def test_values_themselves_are_not_redacted(secretive):
    """Redaction is for showing: the program still reads the true values."""
    assert secretive.ENV.INPUT.BUCKET.APP_KEY.get_secret_value() == KEY
    assert secretive.EXPERIMENT.WANDB.API_KEY == "wandb-key"


@pytest.mark.parametrize(
    "text",
    [
        f"ENV: {{INPUT: {{BUCKET: {{APP_KYE: {KEY}}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY: [{KEY}]}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY: *{KEY}}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY: !{KEY} x}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY:{KEY}}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY {KEY}}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{NAME: {{APP_KEY: {KEY}}}}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: 'APP_KEY: {KEY}'}}}}",
        f"ENV:\n  INPUT:\n    BUCKET:\n      APP_KEY:{KEY}\n",
        f"ENV:\n  INPUT:\n    BUCKET:\n      NAME: x\n      APP_KEY:{KEY}\n",
        f"ENV: {{INPUT: {{BUCKET: {{ENDPOINT: 'ftp://u:{KEY}@h'}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{REMOTE: ':b2,key={KEY}:'}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY: {KEY}, ENABLED: maybe}}}}}}",
        f"ENV: {{INPUT: {{BUCKET: {{APP_KEY: '{KEY}}}}}}}",
    ],
)
def test_errors_hold_no_secret(tmp_path, text):
    """However wrong the file is, its error shows no secret: not in its text, fields or traceback."""
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    error = caught.value
    everything = [str(error), repr(error.fields()), "".join(traceback.format_exception(error))]
    assert not [part for part in everything if KEY in part]
    assert KEY.encode() not in pickle.dumps(error)
    assert error.__cause__ is None  # a cause could hold the values that were refused


def test_a_section_made_directly_shows_no_secret_in_its_error():
    """Pydantic's own error, met when a section is made without a config, does not repeat the value."""
    with pytest.raises(ValidationError) as caught:
        BucketConfig(APP_KEY=[KEY])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "override", [f"APP_KEY:{KEY}", f"ENV.INPUT.BUCKET.APP_KEY {KEY}", f"A.APP_KEY=*{KEY}"]
)
def test_errors_of_overrides_hold_no_secret(override):
    """An override that can't be read is not repeated in its error."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert KEY not in str(caught.value)


def test_errors_hide_credentials_of_the_environment(monkeypatch):
    """A value that equals a credential in the environment is not shown, whatever its key."""
    monkeypatch.setenv("B2_APPLICATION_KEY", KEY)
    with pytest.raises(ConfigError) as caught:
        Config.from_plain({"TRAIN": {"EPOCHS": KEY}})
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Config.from_plain({"ENV": {KEY: 1}})
    assert KEY not in str(caught.value)
