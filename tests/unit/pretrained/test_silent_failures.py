"""Ways in which loading has silently failed elsewhere: each is an error here, or works and says so."""

import logging

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.config import Config
from linnaeus.errors import CheckpointNotFoundError, IncompatibleWeightsError
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained, stitch
from support.published import convnext, ropevit
from support.reference import ropevit_features

BOTH = {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}


@pytest.fixture
def cache(tmp_path):
    """A cache with the two sources of an mFormer_nano, as their authors publish them."""
    torch.save({"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), patch=1)}, tmp_path / "conv.pth")
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2)}, tmp_path / "vit.pth")
    return tmp_path


def config(cache, **model):
    """Return a config for an mFormer_nano and a cache directory."""
    options = {"NAME": "mFormer_nano", "HEADS": {"species": 4}, **model}
    return Config.from_plain({"MODEL": options, "ENV": {"INPUT": {"CACHE_DIR": str(cache)}}})


def published(cache, name):
    """Return the weights of a file of the cache."""
    return torch.load(cache / name, weights_only=True)["model"]


def test_an_unescaped_pattern_does_not_drop_norm1_with_norm(cache):
    """A drop of `norm.` is a prefix: it drops norm.weight and norm.bias, and no norm1 anywhere."""
    cfg = config(cache, **BOTH)
    recipe = {
        "sources": {
            "convnext": {
                "checkpoint": "conv.pth",
                "claims": ["stages.0.", "stages.1.", "downsample_layers."],
            },
            "ropevit": {
                "checkpoint": "vit.pth",
                "rules": [
                    "ropevit",
                    {"rename": {"prefix": "norm.", "to": "gone."}},
                    {"drop": {"prefix": "gone.", "why": "test"}},
                ],
                "claims": ["cls_token", "blocks.", "norm."],
            },
        }
    }
    model = build_model(cfg)
    report = stitch(recipe, model, cfg)
    assert torch.equal(model.blocks[1].norm1.weight, published(cache, "vit.pth")["blocks.1.norm1.weight"])
    assert {u.name for u in report.unused if u.reason == "test"} == {"norm.weight", "norm.bias"}


def test_a_drop_rule_does_not_remove_what_stitching_loads(cache):
    """Prefixes that the model drops take nothing away from what a recipe claims."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    type(model).pretrained_ckpt_handling_metadata = {
        "drop_params": ["norm.", "blocks.", "downsample_layers."]
    }
    try:
        assert load_pretrained(cfg, model).coverage == 1.0
    finally:
        del type(model).pretrained_ckpt_handling_metadata


def test_downsample_names_match(cache):
    """Every downsampler gets its norm and its convolution."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    rows = {row.module: row for row in report.modules()}
    for i in range(3):
        assert (rows[f"downsample_layers.{i}"].fresh, rows[f"downsample_layers.{i}"].num_tensors) == (0, 4)


def test_freqs_of_a_whole_vit_are_split_over_its_blocks(cache):
    """Block i turns by freqs[:, i].view(2, heads, head_dim // 2)."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    load_pretrained(cfg, model)
    whole = published(cache, "vit.pth")["freqs"]
    for i, block in enumerate(model.blocks):
        assert torch.equal(block.freqs, whole[:, i].view(2, 3, 16))


def test_layer_scale_is_not_skipped(cache):
    """A model without LayerScale computes what the LS checkpoint does."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    assert model.blocks[0].gamma_1 is None
    report = load_pretrained(cfg, model)
    tokens = torch.randn(2, 96, 3, 3)
    with torch.no_grad():
        expected = ropevit_features(published(cache, "vit.pth"), tokens, 3, 3)
        torch.testing.assert_close(model.forward_tokens(tokens), expected, rtol=0, atol=1e-5)
    assert not any("gamma" in u.name for u in report.unused if u.source == "ropevit")


def test_a_second_load_that_overwrites_the_first_is_told(cache):
    """Loading once more says how many parameters of which files it overwrote."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    first = load_pretrained(cfg, model)
    again = load_pretrained(cfg, model)
    assert not any("overwritten" in note for note in first.notes)
    assert any("that conv.pth and vit.pth had filled before were overwritten" in note for note in again.notes)


def test_one_config_loads_once(cache, caplog):
    """PRETRAINED beside the two keys loads the stitched weights once, not one thing over the other."""
    cfg = config(cache, PRETRAINED="conv.pth", **BOTH)
    with caplog.at_level(logging.INFO, logger="linnaeus.pretrained"):
        load_pretrained(cfg, build_model(cfg))
    assert len([r for r in caplog.records if r.name.startswith("linnaeus.pretrained")]) == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "module.backbone.", "model.encoder."])
def test_more_than_a_leading_module_is_stripped(cache, prefix):
    """Nested prefixes of any wrappers on the source change nothing."""
    wrapped = {prefix + name: tensor for name, tensor in published(cache, "vit.pth").items()}
    torch.save({"state_dict": wrapped}, cache / "vit.pth")
    cfg = config(cache, **BOTH)
    assert load_pretrained(cfg, build_model(cfg)).coverage == 1.0


@pytest.mark.parametrize("theta", [10_000, 50])
def test_another_rotary_base_is_not_passed_over(cache, theta):
    """Axial weights of base 100 in a model of another base are refused, naming both bases."""
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2, mixed=False)}, cache / "vit.pth")
    cfg = config(cache, ROPE_STAGES={"ROPE_MIXED": False, "ROPE_THETA": theta}, **BOTH)
    with pytest.raises(IncompatibleWeightsError, match=rf"base {theta}.*base 100"):
        load_pretrained(cfg, build_model(cfg))


def test_another_rotary_base_is_taken_over_when_asked_to(cache):
    """A recipe that says `retune` sets the model's constants to the source's, and the report says so."""
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2, mixed=False)}, cache / "vit.pth")
    cfg = config(cache, ROPE_STAGES={"ROPE_MIXED": False, "ROPE_THETA": 10_000})
    retune = {
        "axial_frequencies": {
            "to": r"blocks\.(\d+)\.freqs",
            "beside": r"blocks.\1.attn.qkv.weight",
            "theta": 100,
            "retune": True,
        }
    }
    folds = [
        {
            "fold": {
                "scale": rf"blocks\.(\d+)\.gamma_{n}",
                "into": [rf"blocks.\1.{into}.weight", rf"blocks.\1.{into}.bias"],
            }
        }
        for n, into in ((1, "attn.proj"), (2, "mlp.fc2"))
    ]
    source = {"checkpoint": "vit.pth", "rules": [retune, *folds], "claims": ["cls_token", "blocks.", "norm."]}
    model = build_model(cfg)
    report = stitch({"sources": {"ropevit": source}}, model, cfg)
    tokens = torch.randn(1, 96, 3, 3)
    with torch.no_grad():
        expected = ropevit_features(published(cache, "vit.pth"), tokens, 3, 3, theta=100.0)
        torch.testing.assert_close(model.forward_tokens(tokens), expected, rtol=0, atol=1e-5)
    assert {a.note for a in report.arrivals if a.name.endswith("freqs")} == {"axial frequencies of base 100"}


@pytest.mark.parametrize("keys", [{"PRETRAINED": "gone.pth"}, {**BOTH, "PRETRAINED_CONVNEXT": "gone.pth"}])
def test_a_file_that_is_not_found_is_no_random_model(cache, keys):
    """A missing checkpoint is an error, and the model keeps the weights that it has."""
    cfg = config(cache, **keys)
    model = build_model(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointNotFoundError):
        load_pretrained(cfg, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_config_that_names_both_sources_reaches_the_stitching(cache):
    """No other key is needed."""
    cfg = config(cache, **BOTH)
    model = build_model(cfg)
    assert [s.num_used for s in load_pretrained(cfg, model).sources] == [30, 46]


def test_a_shape_mismatch_is_no_warning_in_the_log(cache, caplog):
    """It is an error with both shapes in its first line of details, and nothing is copied."""
    state = published(cache, "vit.pth")
    state["blocks.0.attn.qkv.weight"] = torch.zeros(10, 96)
    torch.save({"model": state}, cache / "vit.pth")
    cfg = config(cache, PRETRAINED_MIN_COVERAGE=0.95, **BOTH)
    with pytest.raises(IncompatibleWeightsError) as caught:
        load_pretrained(cfg, build_model(cfg))
    assert caught.value.details[0] == "blocks.0.attn.qkv.weight: (288, 96) in the model, (10, 96) in ropevit"
    assert not caplog.records


def test_a_wider_last_stage_is_not_left_random_by_design(cache):
    """All of the transformer's blocks have one width, and every one of them is filled."""
    cfg = config(cache, **BOTH)
    report = load_pretrained(cfg, build_model(cfg))
    fresh = [a.name for a in report.arrivals if a.status == "fresh" and not a.is_head]
    assert fresh == []


def test_an_average_is_not_taken_unasked(cache):
    """Beside trained weights their average is named and not taken; asked for, it is taken and said."""
    trained, average = (ropevit(96, 3, 3, mlp_ratio=2, seed=s) for s in (5, 6))
    torch.save({"model": trained, "model_ema": average}, cache / "vit.pth")
    torch.save({"model": published(cache, "conv.pth")}, cache / "conv.pth")
    cfg = config(cache, PRETRAINED_ROPEVIT="vit.pth")
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert torch.equal(model.cls_token, trained["cls_token"])
    assert any("also has weights under model_ema: not taken" in note for note in report.notes)
    asked = config(cache, PRETRAINED_ROPEVIT="vit.pth", PRETRAINED_EMA=True)
    report = load_pretrained(asked, model)
    assert torch.equal(model.cls_token, average["cls_token"])
    assert any("averaged weights (EMA) under 'model_ema' are taken" in note for note in report.notes)


def test_an_average_that_is_not_there_is_an_error(cache):
    """PRETRAINED_EMA never falls back to other weights."""
    cfg = config(cache, PRETRAINED_EMA=True, **BOTH)
    with pytest.raises(IncompatibleWeightsError, match="holds no averaged weights"):
        load_pretrained(cfg, build_model(cfg))


def test_a_model_of_several_sources_never_has_one_twice(cache):
    """A parameter that two sources of a recipe claim is a StitchError that names both."""
    cfg = config(cache)
    source = {"checkpoint": "vit.pth", "rules": "ropevit"}
    recipe = {"sources": {"one": source, "two": dict(source)}}
    with pytest.raises(linnaeus.errors.StitchError, match=r"claimed twice: by .* of one and by .* of two"):
        stitch(recipe, build_model(cfg), cfg)


def test_a_widened_copy_of_a_model_is_refused(cache):
    """Widths that do not meet at the joint are a StitchError that names both."""
    torch.save({"model": ropevit(384, 3, 6)}, cache / "vit.pth")
    cfg = config(cache, **BOTH)
    with pytest.raises(linnaeus.errors.StitchError, match=r"convnext is 96 wide .*ropevit is 384 wide"):
        load_pretrained(cfg, build_model(cfg))


def test_wrapping_the_model_changes_nothing(cache):
    """A compiled or data-parallel model is filled as the bare one is."""
    cfg = config(cache, **BOTH)
    wrapped = nn.Module()
    wrapped.module = build_model(cfg)
    report = load_pretrained(cfg, wrapped)
    assert report.coverage == 1.0
