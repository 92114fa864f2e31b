"""The keys, types, defaults and derived values of a config."""

# ruff: noqa: SIM300  # config keys are upper case, which the rule takes for constants

import copy
import pickle
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from linnaeus.config import Config, Section, default_cache_dir, load_config
from linnaeus.config._unknown import known_keys
from linnaeus.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_cache_variable(monkeypatch):
    monkeypatch.delenv("LINNAEUS_CACHE_DIR", raising=False)


def make(**sections):
    """Make a config of these sections."""
    return Config.from_plain(sections)


def test_no_file_gives_every_default():
    """Without a file and overrides, a config has the documented defaults."""
    cfg = load_config()
    assert cfg.ENV.INPUT.BUCKET.ENABLED is False
    assert cfg.ENV.INPUT.BUCKET.NAME == "linnaeus-checkpoints"
    assert cfg.ENV.INPUT.BUCKET.PATH_PREFIX == "modelZoo/"
    assert cfg.ENV.INPUT.BUCKET.REMOTE is None
    assert cfg.ENV.INPUT.BUCKET.RETRIES == 4
    assert cfg.ENV.INPUT.BUCKET.CONNECT_TIMEOUT_SECONDS == 10
    assert cfg.ENV.INPUT.BUCKET.IDLE_TIMEOUT_SECONDS == 60
    assert cfg.ENV.INPUT.BUCKET.TOTAL_TIMEOUT_SECONDS is None
    assert cfg.ENV.OUTPUT.DIRS.CHECKPOINTS == Path("runs/run/checkpoints")
    assert cfg.ENV.OUTPUT.BUCKET.PATH_PREFIX == "runs/run/"
    assert cfg.MODEL.PRETRAINED is None
    assert cfg.MODEL.PRETRAINED_MIN_COVERAGE == 0.9
    assert cfg.TRAIN.AUTO_RESUME is True
    assert cfg.TRAIN.RESUME is None
    assert cfg.TRAIN.RESUME_SKIP_OPTIMIZER is False
    assert cfg.TRAIN.PRESERVE_CHECKPOINT_SCHEDULE is True
    assert cfg.SCHEDULE.CHECKPOINT.model_dump() == {
        "FORMAT": "pth",
        "INTERVAL_EPOCHS": 1,
        "INTERVAL_STEPS": 0,
        "INTERVAL_MINUTES": 0,
        "KEEP_LAST_N": 3,
        "KEEP_TOP_N": 1,
        "KEEP_EVERY_N_EPOCHS": 0,
        "KEEP_EVERY_HOURS": 0,
        "METRIC": "loss",
        "MODE": "min",
        "CHECK_FINITE": False,
        "AT_VALIDATION": True,
        "INTERVAL": None,
        "MTBF_HOURS": 24,
        "ASYNC": True,
        "WHEN_BUSY": "wait",
        "ON_FAILURE": "raise",
        "DEADLINE_SECONDS": 600,
        "HOLD_SECONDS": 0.002,
        "EXIT_SIGNALS": ("SIGTERM", "SIGINT"),
        "SAVE_SIGNALS": ("SIGUSR1",),
        "GRACE_SECONDS": 30,
    }


def test_a_config_made_directly_equals_a_loaded_one():
    """`Config()` and `load_config()` are the same."""
    assert Config() == load_config() == make(ENV=None, MODEL=None, TRAIN={"RESUME": None})


def test_cache_dir_default_is_the_platforms(monkeypatch, tmp_path):
    """Without CACHE_DIR and without the variable, the cache is in the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for given in (None, ""):
        cache = make(ENV={"INPUT": {"CACHE_DIR": given}}).ENV.INPUT.CACHE_DIR
        assert cache == default_cache_dir()
        assert cache.parts[-2:] == ("linnaeus", "checkpoints")


def test_cache_dir_variable_overrides_the_default_only(monkeypatch, tmp_path):
    """LINNAEUS_CACHE_DIR takes the place of the default, not of a CACHE_DIR that is given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LINNAEUS_CACHE_DIR", "~/ckpt")
    assert load_config().ENV.INPUT.CACHE_DIR == tmp_path / "ckpt"
    assert make(ENV={"INPUT": {"CACHE_DIR": "/x"}}).ENV.INPUT.CACHE_DIR == Path("/x")


def test_cache_dir_variable_that_is_wrong_is_an_error(monkeypatch):
    """A variable with an unknown user's home directory is named in the error."""
    monkeypatch.setenv("LINNAEUS_CACHE_DIR", "~no-such-user/ckpt")
    with pytest.raises(ConfigError, match="LINNAEUS_CACHE_DIR"):
        load_config()


def test_home_directory_is_expanded(monkeypatch, tmp_path):
    """A leading ~ is the home directory in every directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    dirs = {"EXP_BASE": "~/exp", "CHECKPOINTS": "~/c"}
    cfg = make(ENV={"INPUT": {"CACHE_DIR": "~/cache"}, "OUTPUT": {"DIRS": dirs}})
    assert cfg.ENV.INPUT.CACHE_DIR == tmp_path / "cache"
    assert cfg.ENV.OUTPUT.DIRS.EXP_BASE == tmp_path / "exp"
    assert cfg.ENV.OUTPUT.DIRS.CHECKPOINTS == tmp_path / "c"


@pytest.mark.parametrize(
    ("sections", "checkpoints", "prefix"),
    [
        ({"EXPERIMENT": {"NAME": "e"}, "MODEL": {"NAME": "m"}}, "runs/e/checkpoints", "runs/e/"),
        ({"EXPERIMENT": {"NAME": ""}, "MODEL": {"NAME": "m"}}, "runs/m/checkpoints", "runs/m/"),
        ({"EXPERIMENT": {"NAME": 7}}, "runs/7/checkpoints", "runs/7/"),
        ({"EXPERIMENT": {"NAME": "sweep/lr3"}}, "runs/sweep/lr3/checkpoints", "runs/sweep/lr3/"),
        ({"EXPERIMENT": "none"}, "runs/run/checkpoints", "runs/run/"),
        ({"ENV": {"OUTPUT": {"DIRS": {"EXP_BASE": "/d"}}}}, "/d/checkpoints", "runs/run/"),
        (
            {"ENV": {"OUTPUT": {"DIRS": {"EXP_BASE": "", "CHECKPOINTS": ""}}}},
            "runs/run/checkpoints",
            "runs/run/",
        ),
        ({"ENV": {"OUTPUT": {"DIRS": {"EXP_BASE": "/d", "CHECKPOINTS": "/c"}}}}, "/c", "runs/run/"),
    ],
)
def test_a_run_writes_where_its_name_says(sections, checkpoints, prefix):
    """Checkpoints and their place in the bucket follow from EXP_BASE and the run's name."""
    cfg = Config.from_plain(sections)
    assert cfg.ENV.OUTPUT.DIRS.CHECKPOINTS == Path(checkpoints)
    assert cfg.ENV.OUTPUT.BUCKET.PATH_PREFIX == prefix


@pytest.mark.parametrize("name", ["..", "../x", "a/../../b", "/etc", "a//b", "a\nb", "a\\b", "."])
def test_a_run_name_that_leads_out_of_runs_is_refused(name):
    """A name that can't be a path inside runs/ is refused, unless nothing is derived from it."""
    with pytest.raises(ConfigError) as caught:
        make(EXPERIMENT={"NAME": name})
    assert caught.value.field == "EXPERIMENT.NAME"
    output = {"DIRS": {"CHECKPOINTS": "/c"}, "BUCKET": {"PATH_PREFIX": ""}}
    assert make(EXPERIMENT={"NAME": name}, ENV={"OUTPUT": output}).EXPERIMENT.NAME == name


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("", ""),
        ("/", ""),
        ("zoo", "zoo/"),
        ("zoo/", "zoo/"),
        ("//a/b", "a/b/"),
        ("a..b", "a..b/"),
        (None, "modelZoo/"),
    ],
)
def test_path_prefix_is_normalised(given, prefix):
    """A prefix has no slash at its start and one at its end."""
    assert make(ENV={"INPUT": {"BUCKET": {"PATH_PREFIX": given}}}).ENV.INPUT.BUCKET.PATH_PREFIX == prefix


@pytest.mark.parametrize("prefix", ["..", "../x", "a/../b", "/a/..", "./a", "a\nb"])
def test_path_prefix_that_climbs_is_refused(prefix):
    """A prefix can't lead out of the bucket."""
    with pytest.raises(ConfigError) as caught:
        make(ENV={"INPUT": {"BUCKET": {"PATH_PREFIX": prefix}}})
    assert caught.value.field == "ENV.INPUT.BUCKET.PATH_PREFIX"


def test_blank_text_means_none():
    """Older configs write "" for nothing."""
    pretrained = {f"PRETRAINED{end}": "" for end in ("", "_SOURCE", "_CONVNEXT", "_ROPEVIT")}
    bucket = {"REMOTE": "", "ENDPOINT": "", "APP_KEY": "", "APP_KEY_ID": ""}
    cfg = make(MODEL=pretrained, TRAIN={"RESUME": ""}, ENV={"INPUT": {"BUCKET": bucket}})
    assert cfg == Config()


def test_null_means_default():
    """Each of our keys, and each of our sections, has its default when it is null."""
    for path in known_keys(Config):
        tree = None
        for key in reversed(path):
            tree = {key: tree}
        assert Config.from_plain(tree) == Config(), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("TRAIN.EPOCHS", -1),
        ("TRAIN.EPOCHS", 2.0),
        ("TRAIN.EPOCHS", "3"),
        ("TRAIN.EPOCHS", True),
        ("TRAIN.AUTO_RESUME", 1),
        ("TRAIN.AUTO_RESUME", "False"),
        ("TRAIN.RESUME", 100),
        ("TRAIN.RESUME", "a\nb"),
        ("MODEL.PRETRAINED", ["a"]),
        ("MODEL.PRETRAINED_MIN_COVERAGE", 1.1),
        ("MODEL.PRETRAINED_MIN_COVERAGE", float("nan")),
        ("SCHEDULE.CHECKPOINT.INTERVAL_STEPS", -1),
        ("SCHEDULE.CHECKPOINT.INTERVAL_MINUTES", -0.5),
        ("SCHEDULE.CHECKPOINT.KEEP_LAST_N", 1.5),
        ("SCHEDULE.CHECKPOINT.MODE", "less"),
        ("SCHEDULE.CHECKPOINT.METRIC", ""),
        ("ENV.INPUT.BUCKET.ENABLED", "yes please"),
        ("ENV.INPUT.BUCKET.RETRIES", -1),
        ("ENV.INPUT.BUCKET.CONNECT_TIMEOUT_SECONDS", 0),
        ("ENV.INPUT.BUCKET.IDLE_TIMEOUT_SECONDS", -1),
        ("ENV.INPUT.BUCKET.TOTAL_TIMEOUT_SECONDS", float("inf")),
        ("ENV.INPUT.BUCKET.ENDPOINT", "b2.example.com"),
        ("ENV.INPUT.BUCKET.REMOTE", "-v"),
        ("ENV.INPUT.BUCKET.NAME", 5),
        ("ENV.INPUT.CACHE_DIR", 5),
        ("ENV.INPUT.CACHE_DIR", "~no-such-user/x"),
        ("ENV.INPUT.CACHE_DIR", "a\0b"),
        ("ENV.OUTPUT.DIRS.EXP_BASE", 5),
        ("ENV.OUTPUT", "runs"),
        ("TRAIN", 3),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(path, value):
    """A value of the wrong type or range is refused, with its key."""
    tree = value
    for key in reversed(path.split(".")):
        tree = {key: tree}
    with pytest.raises(ConfigError) as caught:
        Config.from_plain(tree)
    assert caught.value.field == path
    assert caught.value.expected


def test_several_wrong_values_are_all_named():
    """One error names all the keys that have a wrong value."""
    with pytest.raises(ConfigError, match=r"TRAIN\.AUTO_RESUME: .*wrong too: TRAIN\.EPOCHS"):
        make(TRAIN={"EPOCHS": "x", "AUTO_RESUME": 0})


def test_an_enabled_bucket_has_a_name():
    """A bucket without a name can be left in a config only while it is disabled."""
    assert make(ENV={"INPUT": {"BUCKET": {"NAME": ""}}}).ENV.INPUT.BUCKET.NAME == ""
    with pytest.raises(ConfigError) as caught:
        make(ENV={"INPUT": {"BUCKET": {"NAME": "", "ENABLED": True}}})
    assert caught.value.field == "ENV.INPUT.BUCKET.NAME"


def test_a_directory_as_bucket_has_no_slash_at_its_end():
    """NAME and PATH_PREFIX can be joined with one separator."""
    assert make(ENV={"INPUT": {"BUCKET": {"NAME": "/data/zoo/"}}}).ENV.INPUT.BUCKET.NAME == "/data/zoo"


@pytest.mark.parametrize(
    "remote", [":s3,secret_access_key=k:", ":sftp,user=a,pass='b':", ":b2,account=a,key=b:"]
)
def test_a_remote_with_credentials_is_refused(remote):
    """Credentials in a connection string would end in an argument list."""
    with pytest.raises(ConfigError, match="no credentials"):
        make(ENV={"INPUT": {"BUCKET": {"REMOTE": remote}}})


@pytest.mark.parametrize("remote", [":local:", "zoo:", "zoo", ":s3,provider=Minio,endpoint='http://x':"])
def test_a_remote_without_credentials_is_taken_as_it_is(remote):
    """Any remote that rclone understands can be given."""
    assert make(ENV={"INPUT": {"BUCKET": {"REMOTE": remote}}}).ENV.INPUT.BUCKET.REMOTE == remote


def test_a_config_is_frozen():
    """No key of a config can be set or deleted, in our sections or in others'."""
    cfg = make(DATA={"SIZE": 4}, MODEL={"ROPE_STAGES": {"DEPTHS": [5, 2]}})
    with pytest.raises(ValidationError):
        cfg.TRAIN.EPOCHS = 3
    with pytest.raises(ValidationError):
        cfg.MODEL.ROPE_STAGES = 3
    with pytest.raises(AttributeError, match=r"DATA\.SIZE"):
        cfg.DATA.SIZE = 5
    with pytest.raises(AttributeError, match=r"DATA\.SIZE"):
        del cfg.DATA.SIZE
    with pytest.raises(TypeError):
        cfg.DATA["SIZE"] = 5
    assert cfg.DATA.SIZE == 4


def test_sections_of_others_pass_through():
    """Values that are not ours keep their value and type, and are read as attributes at any depth."""
    values = {
        "BATCH": 4,
        "LR": 1e-4,
        "ON": True,
        "NONE": None,
        "LIST": [1, {"A": "b"}],
        "DEEP": {"ER": {"X": "1"}},
    }
    cfg = make(DATA=values, EVAL_MODE=False, TRAIN={"START_EPOCH": 3}, DEBUG={"CHECKPOINT": True})
    assert cfg.DATA == values
    assert cfg.DATA.DEEP.ER.X == "1"
    assert cfg.DATA.LIST[1].A == "b"
    assert isinstance(cfg.DATA.DEEP, Section)
    assert cfg.EVAL_MODE is False
    assert cfg.TRAIN.START_EPOCH == 3
    assert cfg.DEBUG.CHECKPOINT is True
    assert {key: type(value) for key, value in cfg.to_plain()["DATA"].items()} == {
        key: type(value) for key, value in values.items()
    }


def test_get_has_a_default_everywhere():
    """`get`, `in` and `[...]` work alike on our sections and on those of others."""
    cfg = make(DATA={"A": 1}, TRAIN={"copy": "x"})
    assert cfg.get("DATA").get("A", 2) == 1
    assert cfg.DATA.get("B", 2) == 2
    assert cfg.TRAIN.get("EPOCHS") == 1
    assert cfg.TRAIN.get("LR", 0.1) == 0.1
    assert cfg.TRAIN["copy"] == "x"
    assert "EPOCHS" in cfg.TRAIN
    assert "LR" not in cfg.TRAIN
    assert cfg.ENV.INPUT.BUCKET["NAME"] == "linnaeus-checkpoints"
    with pytest.raises(KeyError):
        cfg.ENV["X"]


def test_a_missing_section_reads_as_empty():
    """A section that the config does not have can be asked for values with defaults."""
    cfg = Config()
    assert cfg.DATA == {}
    assert cfg.DATA.get("SIZE", 8) == 8
    assert "DATA" not in cfg
    assert "DATA" not in cfg.to_plain()


def test_a_missing_key_is_an_error_with_the_nearest_one():
    """An attribute that is no key says which one was meant."""
    cfg = make(DATA={"BATCH_SIZE": 4}, TRAIN={"LR": 1})
    with pytest.raises(AttributeError, match=r"DATA\.BATCH_SZE; did you mean DATA\.BATCH_SIZE"):
        cfg.DATA.BATCH_SZE  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean EPOCHS"):
        cfg.TRAIN.EPOCH  # noqa: B018
    with pytest.raises(AttributeError):
        cfg.ENV.INPUT.FOO  # noqa: B018


def test_a_config_shares_nothing_with_what_it_was_made_from():
    """Neither the caller's values nor the plain ones that are given out are those of the config."""
    values = {"DATA": {"LIST": [1]}, "MODEL": {"RESUME": "a.pth"}}
    with pytest.warns(FutureWarning):
        cfg = Config.from_plain(values)
    values["DATA"]["LIST"].append(2)
    cfg.to_plain()["DATA"]["LIST"].append(3)
    assert cfg.DATA.LIST == [1]
    assert values["MODEL"] == {"RESUME": "a.pth"}


def test_a_config_survives_pickling_and_copying():
    """A config can be sent to another process."""
    cfg = make(DATA={"A": {"B": 1}}, MODEL={"X": {"Y": [1]}}, EXPERIMENT={"NAME": "e"})
    for other in (pickle.loads(pickle.dumps(cfg)), copy.deepcopy(cfg), copy.copy(cfg)):
        assert other == cfg
        assert other.MODEL.X.Y == [1]
        assert other.digest() == cfg.digest()


def test_a_value_that_no_yaml_could_hold_is_refused():
    """Only plain values can be in a config."""
    with pytest.raises(ConfigError, match=r"DATA\.X.* not bytes"):
        make(DATA={"X": b"abc"})
    with pytest.raises(ConfigError, match=r"DATA\.X.* not set"):
        make(DATA={"X": [{1}]})
    with pytest.raises(ConfigError, match="sections"):
        Config.from_plain([1])


def test_digest_depends_on_values_alone():
    """The digest is that of the canonical JSON: the order of keys does not matter, a value does."""
    first = make(DATA={"A": 1, "B": 2}, TRAIN={"EPOCHS": 2})
    assert re.fullmatch("[0-9a-f]{64}", first.digest())
    assert first.digest() == make(TRAIN={"EPOCHS": 2}, DATA={"B": 2, "A": 1}).digest()
    assert first.digest() != make(TRAIN={"EPOCHS": 3}, DATA={"B": 2, "A": 1}).digest()
    assert make(DATA={1: "a", "x": "b"}).digest()


def test_every_key_is_documented():
    """docs/configuration.md has every key."""
    text = (REPOSITORY / "docs/configuration.md").read_text()
    for path in known_keys(Config):
        row = f"| `{path[-1]}` |" if "BUCKET" in path[:-1] else f"`{'.'.join(path)}`"
        assert row in text, path


def test_directories_may_hold_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters name their scratch space so; an unset one would make a directory of that very name."""
    monkeypatch.setenv("SCRATCH_HERE", "/scratch/me")
    for spelled in ("$SCRATCH_HERE/c", "${SCRATCH_HERE}/c"):
        assert load_config(None, [f"ENV.INPUT.CACHE_DIR={spelled}"]).ENV.INPUT.CACHE_DIR == Path(
            "/scratch/me/c"
        )
    monkeypatch.delenv("SCRATCH_HERE")
    with pytest.raises(ConfigError, match="not set, \\$SCRATCH_HERE"):
        load_config(None, ["ENV.INPUT.CACHE_DIR=$SCRATCH_HERE/c"])
