"""What holds for every config, whatever its values."""

import json
import string
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from linnaeus.config import Config, is_secret_name, load_config, redact
from linnaeus.config._older import OLDER
from linnaeus.config._reading import Document, parse_yaml
from linnaeus.config._schema import CheckpointScheduleConfig, EnvConfig, ModelConfig, TrainConfig
from linnaeus.config._unknown import known_keys
from linnaeus.errors import ConfigError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
OWNED = sorted(
    [("ENV",)]
    + [("ENV", *path) for path in known_keys(EnvConfig)]
    + [("SCHEDULE", "CHECKPOINT")]
    + [("SCHEDULE", "CHECKPOINT", *path) for path in known_keys(CheckpointScheduleConfig)]
    + [("MODEL", key) for key in ModelConfig.claimed if key in ModelConfig.model_fields]
    + [("TRAIN", key) for key in TrainConfig.claimed if key in TrainConfig.model_fields]
)

# kinds of characters that YAML and terminals treat in their own way; a fixed alphabet, because the table of
# all characters takes hypothesis a second to make
PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " ßé€漢🙂\u00a0"
SPECIAL = "\n\t\r\x01\x7f\x85\u2028\ufeff"
texts = st.text(PRINTABLE)
harmless = texts.filter(lambda text: redact(text, ()) == text)
names = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: not is_secret_name(name))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | harmless
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
foreign = st.dictionaries(st.builds("DATA_{}".format, names), values, max_size=4)
secrets = st.text(PRINTABLE.replace("*", ""), min_size=6, max_size=30).map("Zq{}".format)


def nested(path, value):
    """Return the tree that has one value, at a path."""
    for key in reversed(path):
        value = {key: value}
    return value


@st.composite
def typos(draw):
    """Return the path of a key of ours, and how somebody might misspell the key."""
    path = draw(st.sampled_from(OWNED))
    key = path[-1]
    at = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from(LETTERS))
    swapped = key[:at] + key[at + 1 : at + 2] + key[at] + key[at + 2 :]
    forms = [
        key[:at] + key[at + 1 :],
        key[:at] + letter + key[at + 1 :],
        key[:at] + letter + key[at:],
        swapped,
    ]
    forms += [key.lower(), key.capitalize()]
    # at the top level only the case is ours to judge: ENVS may be somebody's section
    wrong = draw(st.sampled_from(forms[4:] if len(path) == 1 else forms))
    return path, wrong


@given(foreign)
def test_foreign_sections_round_trip(sections):
    """What is not ours comes out as it went in: from mappings, from a file, and from plain values."""
    cfg = Config.from_plain({**sections, "TRAIN": {"OTHER": sections}})
    assert {key: cfg[key] for key in sections} == sections
    assert cfg.TRAIN["OTHER"] == sections
    plain = cfg.to_plain()
    assert {key: plain[key] for key in sections} == sections
    assert Config.from_plain(plain) == cfg
    assert Config.from_plain(plain).digest() == cfg.digest()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "exp.yaml")
        file.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")
        assert load_config(file).to_plain() == plain


@given(st.lists(names, min_size=1, max_size=3), values)
def test_an_override_sets_any_value(path, value):
    """A value written as YAML arrives as it is, at any depth."""
    text = json.dumps(value, ensure_ascii=False)  # which is YAML too
    cfg = load_config(None, [f"DATA.{'.'.join(path)}={text}"])
    found = cfg.DATA
    for key in path:
        found = found[key]
    assert found == value


@given(typos(), st.none() | st.integers() | st.text(LETTERS))
def test_a_typo_in_our_sections_is_refused(typo, value):
    """One wrong letter, or the wrong case, in a key of ours is an error that names the key that was meant."""
    path, wrong = typo
    misspelt = (*path[:-1], wrong)
    if misspelt in known_keys(Config) or misspelt in OLDER or not wrong:
        return
    with pytest.raises(ConfigError) as caught:
        Config.from_plain(nested(misspelt, value))
    assert caught.value.nearest == ".".join(path)


@given(secrets, secrets, st.sampled_from(["API_KEY", "my_secret", "HF_TOKEN", "PASSWORD", "CREDENTIALS"]))
@pytest.mark.filterwarnings("ignore::linnaeus.config.LinnaeusDeprecationWarning")
def test_secrets_never_show(secret, other, name):
    """A secret given in any way is in no text made of the config, nor in an error about it."""
    tree = {
        "ENV": {"OUTPUT": {"BUCKET": {"APP_KEY": secret}}},
        "DATA": {
            "COPY": f"<{secret}>",
            name: secret,
            "IN": {name: {"X": [secret]}},
            "URL": f"http://u:{'pw' * 4}@h/",
        },
        "ELSEWHERE": f"<{other}>",
    }
    wrong = [
        nested(("ENV", "INPUT", "BUCKET", "APP_KEY"), [secret]),
        nested(("ENV", "INPUT", "BUCKET", "APP_KYE"), secret),
        nested(("TRAIN", "EPOCHS"), other),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("B2_APPLICATION_KEY", other)
        cfg = Config.from_plain(tree)
        shown = [repr(cfg), str(cfg), f"{cfg}", repr(cfg.ENV), yaml.safe_dump(cfg.to_plain())]
        for bad in wrong:
            with pytest.raises(ConfigError) as caught:
                Config.from_plain(bad)
            shown += [str(caught.value), repr(caught.value.fields())]
    for hidden in (secret, other, "pwpw"):
        assert not [text for text in shown if hidden in text or repr(hidden)[1:-1] in text]


@given(texts, st.lists(secrets, max_size=3), st.data())
def test_redacted_text_holds_no_secret(text, hidden, data):
    """No secret survives redaction, wherever and however often it stands."""
    parts = data.draw(st.lists(st.sampled_from([text, *hidden, "Zq", " "]), max_size=6))
    redacted = redact("".join(parts), hidden)
    assert not [secret for secret in hidden if secret in redacted]


def outcome(make, *given):
    """Return what a function makes, or the text of its config error."""
    try:
        return make(*given)
    except ConfigError as error:
        return str(error)


@given(st.text(PRINTABLE + SPECIAL) | st.text("[]{}&*!:-?|>'\"# \n\tab01.e<%@`,~"))
def test_any_text_is_a_document_or_a_config_error(text):
    """Whatever a file holds, reading it ends in values or in a config error."""
    assert isinstance(outcome(parse_yaml, text, "x"), Document | str)


@given(
    st.dictionaries(
        st.sampled_from(["ENV", "MODEL", "TRAIN", "SCHEDULE", "CHECKPOINT", "EXPERIMENT"]), values
    )
)
def test_any_sections_are_a_config_or_a_config_error(tree):
    """Whatever our sections hold, the outcome is a config or a config error."""
    assert isinstance(outcome(Config.from_plain, tree), Config | str)


@given(st.sampled_from(OWNED), values)
@pytest.mark.filterwarnings("ignore::linnaeus.config.LinnaeusDeprecationWarning")
def test_any_value_of_our_keys_is_taken_or_refused(path, value):
    """Each of our keys takes a value, or refuses it by name; what is taken can be stored and read again."""
    result = outcome(Config.from_plain, nested(path, value))
    if isinstance(result, str):
        assert path[0] in result
    else:
        again = Config.from_plain(result.to_plain())
        assert again.to_plain() == result.to_plain() or path[-1].startswith("APP_KEY")
