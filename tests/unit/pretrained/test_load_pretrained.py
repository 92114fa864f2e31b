"""load_pretrained: from a config and files to a model."""

import logging

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.config import Config
from linnaeus.errors import (
    CheckpointNotFoundError,
    ConfigError,
    IncompatibleWeightsError,
    UnsafeCheckpointError,
)
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained
from support.published import convnext, ropevit

BOTH = {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}


@pytest.fixture
def cache(tmp_path):
    """A cache with the two sources of an mFormer_nano, as their authors publish them."""
    torch.save(
        {"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1)}, tmp_path / "conv.pth"
    )
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2, num_classes=5)}, tmp_path / "vit.pth")
    return tmp_path


def config(cache, **model):
    """Return a config for an mFormer_nano and a cache directory."""
    options = {"NAME": "mFormer_nano", "HEADS": {"species": 4}, **model}
    return Config.from_plain({"MODEL": options, "ENV": {"INPUT": {"CACHE_DIR": str(cache)}}})


def state_of(model):
    """Return a copy of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, state):
    """Tell whether a model has this state."""
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_both_sources_are_stitched_with_pretrained_unset(cache):
    """PRETRAINED_CONVNEXT and PRETRAINED_ROPEVIT are enough: no other key opens the door to stitching."""
    cfg = config(cache, PRETRAINED=None, **BOTH)
    report = load_pretrained(cfg, build_model(cfg))
    assert [source.name for source in report.sources] == ["convnext", "ropevit"]
    assert report.coverage == 1.0


def test_the_documented_keys_work_together(cache):
    """PRETRAINED naming one of the parts, as documented, is stitched for a hybrid model, and said."""
    cfg = config(cache, PRETRAINED="conv.pth", **BOTH)
    report = load_pretrained(cfg, build_model(cfg))
    assert len(report.sources) == 2
    assert any("MODEL.PRETRAINED: set, but not read" in note for note in report.notes)


def test_the_documented_keys_work_for_a_model_that_is_no_hybrid(cache):
    """The same keys load PRETRAINED alone where the model has no place for the other part."""
    model = nn.Module()
    for name, tensor in convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1, seed=3).items():
        _plant(model, name, tensor)
    report = load_pretrained(config(cache, PRETRAINED="conv.pth", **BOTH), model)
    assert [source.name for source in report.sources] == ["pretrained"]
    assert report.num_fresh == 0


def _plant(model, name, tensor):
    *path, last = name.split(".")
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    model.register_parameter(last, nn.Parameter(tensor))


def test_a_third_checkpoint_beside_the_two_is_ambiguous(cache):
    """PRETRAINED that is none of the parts is refused until PRETRAINED_SOURCE says which is meant."""
    cfg = config(cache, PRETRAINED="mine.pth", **BOTH)
    with pytest.raises(ConfigError, match="PRETRAINED_SOURCE"):
        load_pretrained(cfg, build_model(cfg))


def test_pretrained_source_says_which_is_meant(cache):
    """With PRETRAINED_SOURCE the other keys are not read, and the report says so; nothing is loaded twice."""
    asked = config(cache, PRETRAINED="mine.pth", PRETRAINED_SOURCE="stitched_convnext_ropevit", **BOTH)
    assert [s.identifier for s in load_pretrained(asked, build_model(asked)).sources] == [
        "conv.pth",
        "vit.pth",
    ]
    model = build_model(asked)
    linnaeus.save({"model": model.state_dict()}, cache / "mine.pth")
    single = config(cache, PRETRAINED="mine.pth", PRETRAINED_SOURCE="single", **BOTH)
    report = load_pretrained(single, build_model(single))
    assert [s.identifier for s in report.sources] == ["mine.pth"]
    assert any("PRETRAINED_CONVNEXT" in note for note in report.notes)


@pytest.mark.parametrize(
    "keys",
    [
        {"PRETRAINED": "x.pth", "PRETRAINED_SOURCE": "metaformers"},
        {"PRETRAINED_SOURCE": "stitched_convnext_ropevit"},
        {"PRETRAINED_SOURCE": "single", **BOTH},
    ],
)
def test_a_source_that_can_not_be_had_is_refused(cache, keys):
    """An unknown PRETRAINED_SOURCE, or one without its checkpoint, is a ConfigError."""
    cfg = config(cache, **keys)
    with pytest.raises(ConfigError, match="PRETRAINED"):
        load_pretrained(cfg, build_model(cfg))


def test_nothing_configured_is_no_error_and_says_so(cache):
    """Without any key the model keeps its weights and the report says that none are configured."""
    cfg = config(cache)
    model = build_model(cfg)
    before = state_of(model)
    report = load_pretrained(cfg, model)
    assert (report.sources, report.coverage) == ((), None)
    assert report.num_fresh == report.num_parameters == sum(p.numel() for p in model.parameters())
    assert "none are configured" in report.lines()[0]
    assert same(model, before)


@pytest.mark.parametrize("keys", [{"PRETRAINED": "gone.pth"}, {**BOTH, "PRETRAINED_ROPEVIT": "gone.pth"}])
def test_a_checkpoint_that_is_not_found_is_an_error_and_never_random_weights(cache, keys):
    """A missing file is CheckpointNotFoundError, and the model is untouched."""
    cfg = config(cache, **keys)
    model = build_model(cfg)
    before = state_of(model)
    with pytest.raises(CheckpointNotFoundError, match=r"gone\.pth"):
        load_pretrained(cfg, model)
    assert same(model, before)


def test_a_checkpoint_that_asks_for_code_is_refused(cache):
    """An unsafe pickle is refused by the reader, and the model is untouched."""
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.getcwd, ()

    torch.save({"model": Evil()}, cache / "evil.pth", pickle_module=pickle)
    cfg = config(cache, PRETRAINED="evil.pth")
    with pytest.raises(UnsafeCheckpointError):
        load_pretrained(cfg, build_model(cfg))


def test_a_runs_checkpoint_is_a_source_for_other_classes(cache):
    """Fine-tuning from a run: the whole backbone arrives, heads of another size are fresh, and said."""
    cfg = config(cache, HEADS={"species": 4, "genus": 2})
    trained = build_model(cfg)
    optimizer = torch.optim.AdamW(trained.parameters())
    state = {"model": trained.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "step": 12}
    linnaeus.save(state, cache / "run.pth")
    cfg = config(cache, PRETRAINED="run.pth", HEADS={"species": 9, "genus": 2})
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert report.coverage == 1.0
    assert [a.name for a in report.arrivals if a.status == "fresh"] == [
        "heads.species.weight",
        "heads.species.bias",
    ]
    assert torch.equal(model.heads["genus"].weight, trained.heads["genus"].weight)
    assert any("heads.species.weight ((4, 96) there)" in note for note in report.notes)


def test_a_runs_checkpoint_of_another_rotary_base_is_refused(cache):
    """Axial weights of our own carry their frequencies, so another ROPE_THETA does not pass unseen."""
    axial = {"ROPE_STAGES": {"ROPE_MIXED": False, "ROPE_THETA": 100}}
    linnaeus.save({"model": build_model(config(cache, **axial)).state_dict()}, cache / "run.pth")
    other = config(cache, PRETRAINED="run.pth", ROPE_STAGES={"ROPE_MIXED": False, "ROPE_THETA": 10_000})
    with pytest.raises(IncompatibleWeightsError, match=r"base 10000.*base 100"):
        load_pretrained(other, build_model(other))
    again = config(cache, PRETRAINED="run.pth", **axial)
    assert load_pretrained(again, build_model(again)).coverage == 1.0


def test_the_configured_coverage_is_required(cache):
    """MODEL.PRETRAINED_MIN_COVERAGE decides; half of a backbone is too little for 0.9 and enough for 0.1."""
    state = torch.load(cache / "vit.pth", weights_only=True)["model"]
    half = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.2.")}
    torch.save({"model": half}, cache / "half.pth")
    keys = {**BOTH, "PRETRAINED_ROPEVIT": "half.pth"}
    cfg = config(cache, **keys)
    with pytest.raises(IncompatibleWeightsError, match=r"at least 90\.0% asked for"):
        load_pretrained(cfg, build_model(cfg))
    cfg = config(cache, PRETRAINED_MIN_COVERAGE=0.1, **keys)
    assert load_pretrained(cfg, build_model(cfg)).missing()


def test_a_backbone_alone_is_too_little_for_the_whole_model(cache):
    """PRETRAINED with a ConvNeXt for an mFormer is an error, not a model that is random in large part."""
    cfg = config(cache, PRETRAINED="conv.pth")
    with pytest.raises(IncompatibleWeightsError):
        load_pretrained(cfg, build_model(cfg))


def test_an_absolute_path_is_a_name_too(cache, tmp_path):
    """What the resolver takes, MODEL.PRETRAINED takes."""
    cfg = config(tmp_path / "elsewhere", PRETRAINED_ROPEVIT=str(cache / "vit.pth"))
    assert load_pretrained(cfg, build_model(cfg)).sources[0].coverage == 1.0


def test_one_line_is_logged(cache, caplog):
    """A load says once, at INFO, what arrived."""
    cfg = config(cache, **BOTH)
    with caplog.at_level(logging.INFO, logger="linnaeus.pretrained"):
        load_pretrained(cfg, build_model(cfg))
    (record,) = [r for r in caplog.records if r.name.startswith("linnaeus.pretrained")]
    assert "100.0% of what conv.pth and vit.pth should give mFormer arrived" in record.getMessage()
