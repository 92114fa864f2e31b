import pytest
import torch

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.models import build_model, model_names


def build(**options):
    """Build a model of two ranks from options of MODEL."""
    return build_model(Config.from_plain({"MODEL": {"HEADS": {"digit": 10, "parity": 2}, **options}}))


@pytest.mark.parametrize("key", ["NAME", "TYPE"])
def test_a_config_names_the_model(key):
    """MODEL.NAME, or MODEL.TYPE in its place, and MODEL.HEADS are enough to build one."""
    model = build(**{key: "mFormer_nano"}, IN_CHANS=1, IMG_SIZE=8)
    logits = model(torch.rand(2, 1, 8, 8))
    assert {rank: t.shape[1] for rank, t in logits.items()} == {"digit": 10, "parity": 2}


def test_images_have_three_channels_unless_told_otherwise():
    """MODEL.IN_CHANS is 3 by default."""
    assert build(NAME="mFormer_nano").downsample_layers[0][0].in_channels == 3


def test_sections_change_the_named_size():
    """What MODEL.ROPE_STAGES, CONVNEXT_STAGES and STEM_PATCH_SIZE say goes before the size's own values."""
    shape = build(
        NAME="mFormer_nano",
        STEM_PATCH_SIZE=2,
        CONVNEXT_STAGES={"DIMS": [8, 16, 32], "DEPTHS": [2, 1]},
        ROPE_STAGES={"DIM": 32, "NUM_HEADS": 2, "ROPE_MIXED": False, "ROPE_THETA": 50, "LAYER_SCALE": 0.1},
    ).shape
    assert (shape.stem_patch, shape.conv_dims, shape.conv_depths, shape.dim) == (2, (8, 16, 32), (2, 1), 32)
    assert (shape.rope_mixed, shape.theta, shape.layer_scale, shape.depth) == (False, 50.0, 0.1, 3)


@pytest.mark.parametrize(("mixed", "theta"), [(True, 10.0), (False, 100.0)])
def test_the_rotary_base_is_the_published_one_by_default(mixed, theta):
    """Without ROPE_THETA the base is 10 for mixed, 100 for axial frequencies, as published."""
    assert build(NAME="mFormer_nano", ROPE_STAGES={"ROPE_MIXED": mixed}).shape.theta == theta


def test_an_unknown_model_is_refused_with_a_list_of_those_there_are():
    """The error lists every model and names the nearest."""
    with pytest.raises(ConfigError) as caught:
        build(NAME="mFormer_smm")
    assert all(name in str(caught.value) for name in model_names())
    assert "Did you mean mFormer_sm?" in str(caught.value)


def test_a_config_without_a_model_is_refused():
    """No MODEL.NAME is an error that lists the models."""
    with pytest.raises(ConfigError, match=r"MODEL\.NAME.*mFormer_nano"):
        build()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"HEADS": None}, "MODEL.HEADS"),
        ({"HEADS": {"digit": 0}}, "MODEL.HEADS.digit"),
        ({"HEADS": {"digit": True}}, "MODEL.HEADS.digit"),
        ({"IN_CHANS": 0}, "MODEL.IN_CHANS"),
        ({"IMG_SIZE": 10}, "MODEL.IMG_SIZE"),
        ({"STEM_PATCH_SIZE": "4"}, "MODEL.STEM_PATCH_SIZE"),
        ({"ROPE_STAGES": {"DIMS": [384, 768]}}, "MODEL.ROPE_STAGES.DIMS"),
        ({"ROPE_STAGES": {"ROPE_THETA": -1}}, "MODEL.ROPE_STAGES.ROPE_THETA"),
        ({"ROPE_STAGES": {"ROPE_MIXED": "yes"}}, "MODEL.ROPE_STAGES.ROPE_MIXED"),
        ({"ROPE_STAGES": {"DIM": 64}}, "MODEL.ROPE_STAGES.DIM"),
        ({"CONVNEXT_STAGES": {"DEPTHS": [3, 3, 9, 3]}}, "MODEL.CONVNEXT_STAGES.DEPTHS"),
        ({"CONVNEXT_STAGES": 3}, "MODEL.CONVNEXT_STAGES"),
    ],
)
def test_options_that_make_no_model_are_refused_by_name(options, field):
    """Every option that can't be used is a ConfigError with its full key."""
    with pytest.raises(ConfigError) as caught:
        build(NAME="mFormer_nano", **options)
    assert caught.value.field == field
