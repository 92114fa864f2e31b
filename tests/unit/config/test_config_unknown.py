"""Unknown keys: refused in our sections, passed through elsewhere."""

import pytest

from linnaeus.config import Config
from linnaeus.errors import ConfigError


def nested(path, value):
    """Return the tree that has one value, at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("env", "ENV"),
        ("Env", "ENV"),
        ("schedule", "SCHEDULE"),
        ("train", "TRAIN"),
        ("Model", "MODEL"),
        ("ENV.input", "ENV.INPUT"),
        ("ENV.INPUTS", "ENV.INPUT"),
        ("ENV.INPUT.CACHEDIR", "ENV.INPUT.CACHE_DIR"),
        ("ENV.CACHE_DIR", "ENV.INPUT.CACHE_DIR"),
        ("ENV.INPUT.BUCKET.CACHE_DIR", "ENV.INPUT.CACHE_DIR"),
        ("ENV.INPUT.BUCKET.enabled", "ENV.INPUT.BUCKET.ENABLED"),
        ("ENV.OUTPUT.BUCKET.NAMES", "ENV.OUTPUT.BUCKET.NAME"),
        ("ENV.OUTPUT.DIRS.CHECKPOINT", "ENV.OUTPUT.DIRS.CHECKPOINTS"),
        ("SCHEDULE.CHECKPOINT.KEEP_LAST", "SCHEDULE.CHECKPOINT.KEEP_LAST_N"),
        ("SCHEDULE.CHECKPIONT", "SCHEDULE.CHECKPOINT"),
        ("SCHEDULE.checkpoint", "SCHEDULE.CHECKPOINT"),
        ("TRAIN.RESUM", "TRAIN.RESUME"),
        ("TRAIN.REZUME", "TRAIN.RESUME"),
        ("TRAIN.REUSME", "TRAIN.RESUME"),
        ("TRAIN.resume", "TRAIN.RESUME"),
        ("TRAIN.RESUME_FROM", "TRAIN.RESUME"),
        ("TRAIN.AUTORESUME", "TRAIN.AUTO_RESUME"),
        ("TRAIN.epochs", "TRAIN.EPOCHS"),
        ("TRAIN.PRETRAINED", "MODEL.PRETRAINED"),
        ("MODEL.AUTO_RESUME", "TRAIN.AUTO_RESUME"),
        ("MODEL.PRETRAIND", "MODEL.PRETRAINED"),
        ("MODEL.PRETRAINED_CONVNXT", "MODEL.PRETRAINED_CONVNEXT"),
        ("MODEL.pretrained", "MODEL.PRETRAINED"),
        ("MODEL.name", "MODEL.NAME"),
    ],
)
def test_a_misspelt_key_is_an_error_with_the_right_one(path, nearest):
    """A key in our sections that is not known is refused, and the nearest known one is named in full."""
    with pytest.raises(ConfigError) as caught:
        Config.from_plain(nested(path, "x"))
    assert caught.value.field == path
    assert caught.value.nearest == nearest
    assert f"Did you mean {nearest}?" in str(caught.value)


def test_an_unknown_key_like_no_other_is_an_error_with_the_known_ones():
    """Where nothing is near, the error lists what there is."""
    with pytest.raises(ConfigError, match="CACHE_DIR, BUCKET") as caught:
        Config.from_plain(nested("ENV.INPUT.ZZZ", 1))
    assert caught.value.nearest is None


@pytest.mark.parametrize(
    "path",
    [
        "TRAIN.START_EPOCH",
        "TRAIN.EPOCH_SIZE",
        "TRAIN.BASE_LR",
        "TRAIN.OPTIMIZER.RESUME",
        "MODEL.ROPE_STAGES.DEPTHS",
        "MODEL.DROP_RATE",
        "MODEL.env",
        "SCHEDULE.VALIDATION.INTERVAL_EPOCHS",
        "SCHEDULE.EARLY_STOP",
        "EXPERIMENT.WANDB.RESUME",
        "EXPERIMENT.WANDB.RUN_ID",
        "DEBUG.CHECKPOINT",
        "EVAL_MODE",
        "CHECKPOINT.OTHER",
        "DATA.ENV.input",
    ],
)
def test_keys_of_others_are_left_alone(path):
    """A key that is not ours passes through."""
    cfg = Config.from_plain(nested(path, "x"))
    value = cfg
    for key in path.split("."):
        value = getattr(value, key)
    assert value == "x"


def test_a_misspelt_older_key_is_an_error():
    """In the older CHECKPOINT section, too, a near miss is not ignored."""
    with pytest.raises(ConfigError) as caught:
        Config.from_plain(nested("CHECKPOINT.KEEP_TOPN", 1))
    assert caught.value.nearest == "SCHEDULE.CHECKPOINT.KEEP_TOP_N"


def test_keys_that_are_no_text_are_errors_in_our_sections():
    """A number as a key can't be ours; in sections of others it is kept."""
    for tree in ({1: 2}, {"MODEL": {1: 2}}, {"ENV": {1: 2}}):
        with pytest.raises(ConfigError):
            Config.from_plain(tree)
    assert Config.from_plain({"DATA": {1: 2}}).DATA[1] == 2
