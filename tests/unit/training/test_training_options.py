"""What the reference trainer accepts."""

import pytest

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.training._options import read_options


def test_options_come_from_the_config() -> None:
    """DATA and TRAIN are read with their types, and what is not given has a default."""
    cfg = Config.from_plain({"TRAIN": {"EPOCHS": 3, "LR": 0.5}, "DATA": {"SHIFT": 2}})
    data, train = read_options(cfg)
    assert (train.EPOCHS, train.LR, train.BATCH_SIZE) == (3, 0.5, 32)
    assert (data.DATASET, data.SHIFT) == ("digits", 2)


def test_an_unknown_key_is_refused() -> None:
    """A mistyped option of the trainer is an error that names it and lists the known ones."""
    with pytest.raises(ConfigError, match=r"TRAIN\.LERNING_RATE.*LR") as caught:
        read_options(Config.from_plain({"TRAIN": {"LERNING_RATE": 0.5}}))
    assert caught.value.field == "TRAIN.LERNING_RATE"


@pytest.mark.parametrize(
    ("key", "value"), [("LR", 0), ("EPOCHS", 0), ("BATCH_SIZE", -1), ("PRECISION", "int8")]
)
def test_a_value_that_makes_no_sense_is_refused(key: str, value: object) -> None:
    """Values outside their range are errors that name the key."""
    with pytest.raises(ConfigError, match=key):
        read_options(Config.from_plain({"TRAIN": {key: value}}))
