"""Older spellings."""

import warnings

import pytest

from linnaeus.config import Config, LinnaeusDeprecationWarning, load_config
from linnaeus.errors import ConfigError


def nested(path, value):
    """Return the tree that has one value, at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def at(tree, path):
    """Return the value at a dotted path."""
    for key in path.split("."):
        tree = tree[key]
    return tree


OLDER = [
    ("ENV.INPUT.BUCKET.BUCKET", "ENV.INPUT.BUCKET.NAME", "zoo"),
    ("ENV.OUTPUT.BUCKET.BUCKET", "ENV.OUTPUT.BUCKET.NAME", "zoo"),
    ("MODEL.RESUME", "TRAIN.RESUME", "a.pth"),
    ("CHECKPOINT.SAVE_FREQ", "SCHEDULE.CHECKPOINT.INTERVAL_EPOCHS", 5),
    ("CHECKPOINT.KEEP_TOP_N", "SCHEDULE.CHECKPOINT.KEEP_TOP_N", 7),
    ("CHECKPOINT.KEEP_LAST_N", "SCHEDULE.CHECKPOINT.KEEP_LAST_N", 0),
]


def loaded(make):
    """Return a config and the warnings that making it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return make(), caught


@pytest.mark.parametrize(("old", "new", "value"), OLDER)
def test_an_older_spelling_works_and_warns_once(old, new, value):
    """An older key sets the present one, with one warning that names both and points to the caller."""
    for make in (
        lambda: Config.from_plain(nested(old, value)),
        lambda: load_config(None, [f"{old}={value}"]),
        lambda: load_config(None, [f"{old}={value}", f"{old}={value}"]),
        lambda: load_config(None, [f"{old.split('.', 1)[0]}={nested(old.split('.', 1)[1], value)}"]),
    ):
        cfg, caught = loaded(make)
        assert at(cfg, new) == value
        assert old.split(".")[0] in ("ENV", "MODEL") or "CHECKPOINT" not in cfg
        assert [warning.category for warning in caught] == [LinnaeusDeprecationWarning]
        assert f"{old} is an older spelling of {new}" in str(caught[0].message)
        assert caught[0].filename == __file__


def test_users_see_the_warning_by_default():
    """The warning is not of a kind that Python hides."""
    assert issubclass(LinnaeusDeprecationWarning, FutureWarning)


@pytest.mark.parametrize(("old", "new", "value"), OLDER)
def test_both_spellings_must_agree(old, new, value):
    """The same value in both spellings is accepted, a different one is an error that names both."""
    other = "other" if isinstance(value, str) else value + 1
    for given in (value, other):
        tree = nested(old, value)
        for section, inner in nested(new, given).items():
            if section not in tree:
                tree[section] = inner
            elif section == "ENV":
                (direction,) = inner
                tree["ENV"][direction]["BUCKET"]["NAME"] = given
        if given == value:
            cfg, caught = loaded(lambda tree=tree: Config.from_plain(tree))
            assert at(cfg, new) == value
            assert len(caught) == 1
        else:
            with pytest.raises(ConfigError) as caught_error:
                Config.from_plain(tree)
            assert caught_error.value.field == new
            assert old in str(caught_error.value)


def test_an_older_key_without_a_value_changes_nothing():
    """A blank or null older key, as in full dumps of older configs, leaves the present one alone."""
    for blank in ("", None):
        cfg, _ = loaded(
            lambda blank=blank: Config.from_plain({"MODEL": {"RESUME": blank}, "TRAIN": {"RESUME": "a.pth"}})
        )
        assert cfg.TRAIN.RESUME == "a.pth"
        assert "RESUME" not in cfg.MODEL


def test_a_blank_present_key_yields_to_the_older_one():
    """A present key that is blank is not given."""
    cfg, _ = loaded(lambda: Config.from_plain({"MODEL": {"RESUME": "a.pth"}, "TRAIN": {"RESUME": ""}}))
    assert cfg.TRAIN.RESUME == "a.pth"


def test_an_override_wins_in_either_spelling(tmp_path):
    """An override in one spelling replaces the file's value in the other."""
    file = tmp_path / "exp.yaml"
    for in_file, in_override in (("MODEL", "TRAIN"), ("TRAIN", "MODEL")):
        file.write_text(f"{in_file}: {{RESUME: a.pth}}")
        cfg, caught = loaded(lambda override=in_override: load_config(file, [f"{override}.RESUME=b.pth"]))
        assert cfg.TRAIN.RESUME == "b.pth"
        assert len(caught) == 1


def test_every_older_key_warns_for_itself():
    """A config with several older keys gets one warning for each."""
    tree = {
        "MODEL": {"RESUME": "a.pth"},
        "CHECKPOINT": {"SAVE_FREQ": 2, "KEEP_TOP_N": 1, "KEEP_LAST_N": 1, "OTHER": 3},
        "ENV": {d: {"BUCKET": {"BUCKET": "b"}} for d in ("INPUT", "OUTPUT")},
    }
    cfg, caught = loaded(lambda: Config.from_plain(tree))
    assert len(caught) == len({str(warning.message) for warning in caught}) == 6
    assert cfg.CHECKPOINT == {"OTHER": 3}


def test_interval_fraction_is_gone():
    """Null is ignored without a word; a value is an error that tells what to use instead."""
    assert Config.from_plain({"SCHEDULE": {"CHECKPOINT": {"INTERVAL_FRACTION": None}}}) == Config()
    with pytest.raises(ConfigError, match="INTERVAL_STEPS") as caught:
        Config.from_plain({"SCHEDULE": {"CHECKPOINT": {"INTERVAL_FRACTION": 0.25}}})
    assert caught.value.field == "SCHEDULE.CHECKPOINT.INTERVAL_FRACTION"


def test_an_older_key_whose_new_section_is_no_section_is_an_error():
    """An older key can't be moved into something that has no keys."""
    with pytest.raises(ConfigError) as caught:
        Config.from_plain({"MODEL": {"RESUME": "a.pth"}, "TRAIN": 3})
    assert caught.value.field == "TRAIN"


def test_credentials_are_accepted_with_one_warning():
    """Keys in a config work, and a warning names the environment variables to use instead."""
    bucket = {"APP_KEY_ID": "0051234", "APP_KEY": "K005abcdef"}
    cfg, caught = loaded(lambda: Config.from_plain({"ENV": {"INPUT": {"BUCKET": bucket}}}))
    assert cfg.ENV.INPUT.BUCKET.APP_KEY.get_secret_value() == "K005abcdef"
    assert cfg.ENV.INPUT.BUCKET.APP_KEY_ID.get_secret_value() == "0051234"
    (warning,) = caught
    for part in ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY ", "ENV.INPUT.BUCKET.APP_KEY"):
        assert part in str(warning.message)
    assert "K005abcdef" not in str(warning.message)


def test_a_stored_config_has_no_credentials_when_read_again():
    """What redaction left of a key is no key, and needs no warning."""
    bucket = {"APP_KEY_ID": "***", "APP_KEY": "***"}
    assert Config.from_plain({"ENV": {"INPUT": {"BUCKET": bucket}}}) == Config()
