"""Reading YAML files, and overrides."""

# ruff: noqa: SIM300  # config keys are upper case, which the rule takes for constants

import pytest

from linnaeus.config import load_config
from linnaeus.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a config from a file of this text, with overrides."""

    def _load(text, *overrides):
        file = tmp_path / "exp.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(file, overrides)

    return _load


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffTRAIN: {EPOCHS: 1}", "TRAIN:\n"])
def test_an_empty_file_gives_defaults(load, text):
    """A file without keys is a config with every default; a byte order mark is no content."""
    assert load(text) == load_config()


def test_a_file_is_read_by_text_or_path(tmp_path, monkeypatch):
    """A path can be given as text, with ~ for the home directory."""
    (tmp_path / "exp.yaml").write_text("TRAIN: {EPOCHS: 7}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("~/exp.yaml").TRAIN.EPOCHS == 7
    assert load_config(str(tmp_path / "exp.yaml")).TRAIN.EPOCHS == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        ("1.5e3", 1500.0),
        (".5e1", 5.0),
        ("3.", 3.0),
        ("12", 12),
        ("0x1e5", 0x1E5),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
        ("'1e-4'", "1e-4"),
        ("2026-11-23", "2026-11-23"),
        ("yes", True),
    ],
)
def test_numbers_are_those_of_yaml_1_2(load, text, value):
    """An exponent without a point makes a float, in files and overrides; a date is text."""
    read = [
        load(f"DATA: {{X: {text}, L: [{text}]}}").DATA,
        load("", f"DATA.X={text}", f"DATA.L=[{text}]").DATA,
    ]
    for data in read:
        assert data.X == value
        assert type(data.X) is type(value)
        assert data.L == [value]


def test_merge_keys_and_anchors_work(load):
    """Anchors may be shared, and a key given beside a merge wins."""
    data = load("DATA:\n  a: &a {X: 1, Y: 2}\n  b: &b\n    <<: *a\n    X: 3\n  c: {<<: *b, Z: 4}\n").DATA
    assert data.b == {"X": 3, "Y": 2}
    assert data.c == {"X": 3, "Y": 2, "Z": 4}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A: 1\nB: 2\nA: 1\n", 3),
        ("A:\n  B: 1\n  'B': 2\n", 3),
        ("A: [\n", 2),
        ("A: 1\n\tB: 2\n", 2),
        ("A: }\n", 1),
        ("A: !!python/object/apply:os.system [id]\n", 1),
        ("A: *nowhere\n", 1),
        ("A: 1\n---\nB: 2\n", 2),
        ("A: &a [*a]\n", 1),
        ("? [a]\n: b\n", 1),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(load, tmp_path, text, line):
    """A syntax error, a key given twice or an unsafe tag is reported with file and line."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.source == f"{tmp_path / 'exp.yaml'}:{line}"


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "text", "3", b"\xff\xfe\x00", "\x01", "A: !!bool maybe", "A: !!int ''", "A: !!timestamp x"],
)
def test_what_is_no_config_is_an_error_with_its_file(load, text):
    """A file without sections, without UTF-8 or with impossible values is a config error."""
    with pytest.raises(ConfigError, match=r"exp\.yaml"):
        load(text)


def test_a_deep_file_is_an_error(load):
    """A file nested beyond all reason is refused, not a crash."""
    with pytest.raises(ConfigError, match="too deeply"):
        load("A: " + "[" * 5000 + "]" * 5000)


def test_a_bomb_of_aliases_is_an_error(load):
    """A few lines that would expand to billions of values are refused at once."""
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(ConfigError, match="too many values"):
        load("\n".join(lines))


@pytest.mark.parametrize("path", ["no/such/file.yaml", ".", "a\0b", "~no-such-user/x.yaml"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, path):
    """A missing file, a directory and an impossible name are config errors that name the path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.source == path
    assert "can't be read" in str(caught.value)


def test_a_wrong_value_is_reported_with_its_line(load):
    """A wrong value, also one in an older spelling, has the line of its key."""
    with pytest.raises(ConfigError, match=r"TRAIN\.EPOCHS in .*exp\.yaml:3: "):
        load("MODEL:\n  NAME: a\nTRAIN: {EPOCHS: x}\n")
    with pytest.raises(ConfigError, match=r"TRAIN\.RESUME in .*exp\.yaml:2: "):
        load("MODEL:\n  RESUME: 5\n")
    with pytest.raises(ConfigError, match=r"ENV\.INPUT\.BUCKT in .*exp\.yaml:3: "):
        load("ENV:\n  INPUT:\n    BUCKT: {}\n")


def test_overrides_win_in_their_order(load):
    """An override replaces what the file gives, and a later one what an earlier one gives."""
    cfg = load("TRAIN: {EPOCHS: 1, LR: 2}", "TRAIN.EPOCHS=3", "TRAIN.EPOCHS=4", "TRAIN.RESUME=a=b.pth")
    assert cfg.TRAIN.EPOCHS == 4
    assert cfg.TRAIN.LR == 2
    assert cfg.TRAIN.RESUME == "a=b.pth"


def test_an_override_makes_the_sections_it_needs(load):
    """Any key can be set, in our sections and in new ones; no value means the default."""
    cfg = load("DATA:\nENV:\n", "DATA.A.B=[1, 2]", "ENV.INPUT.BUCKET.ENABLED=true", "TRAIN.RESUME=")
    assert cfg.DATA.A.B == [1, 2]
    assert cfg.ENV.INPUT.BUCKET.ENABLED is True
    assert cfg.TRAIN.RESUME is None


def test_an_override_with_colons_is_text(load):
    """`REMOTE=:local:` needs no quotes, though YAML takes it for a mapping; mappings have braces."""
    config = load("", "ENV.INPUT.BUCKET.REMOTE=:local:", "DATA.NOTE= a: b ", "DATA.PART={a: 1}")
    assert config.ENV.INPUT.BUCKET.REMOTE == ":local:"
    assert config.DATA.NOTE == "a: b"
    assert config.DATA.PART.a == 1


def test_an_override_replaces_a_whole_section(load):
    """A mapping as value takes the place of what was there."""
    assert load("DATA: {A: {X: 1}}", "DATA.A={Y: 2}").DATA == {"A": {"Y": 2}}


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("TRAIN.EPOCHS", "TRAIN.EPOCHS"),
        ("=3", "override"),
        ("", "override"),
        (".A=3", ".A"),
        ("TRAIN..EPOCHS=3", "TRAIN..EPOCHS"),
        ("TRAIN.EPOCHS=[", "TRAIN.EPOCHS"),
        ("TRAIN.EPOCHS=x", "TRAIN.EPOCHS"),
        ("TRAIN.EPOCHS.X=3", "TRAIN.EPOCHS"),
        ("ENV.INPUT.BUCKET.NMAE=x", "ENV.INPUT.BUCKET.NMAE"),
        ("DATA.SIZE.X=3", "DATA.SIZE"),
        ("TRAIN={EPOCHS: x}", "TRAIN.EPOCHS"),
    ],
)
def test_a_wrong_override_is_an_error_that_says_so(load, override, field):
    """What is wrong with an override is reported as such, with its key."""
    with pytest.raises(ConfigError) as caught:
        load("DATA: {SIZE: 1}\nTRAIN: {EPOCHS: 2}", override)
    assert caught.value.field == field
    assert caught.value.source == "--set"
