"""Backbones of timm: with the package where it is installed, and what is said where it is not."""

import importlib.util
import sys

import pytest
import torch

from linnaeus.config import Config
from linnaeus.errors import ConfigError
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained
from support.published import convnext

# What linnaeus asks of the package, by a ConvNeXt with the names that timm gives its parameters.
STAND_IN = """
from torch import nn

class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.gamma = nn.Parameter(self.norm.weight.new_zeros(dim))

class Model(nn.Module):
    num_features = 8
    def __init__(self, in_chans):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 8, 4, 4), nn.GroupNorm(1, 8))
        stage = nn.Module()
        stage.blocks = nn.Sequential(Block(8))
        self.stages = nn.Sequential(stage)
    def forward(self, x):
        return self.stem(x).mean((2, 3))

def create_model(name, *, pretrained, num_classes, in_chans):
    if name != "convnext_small_of_tests":
        raise RuntimeError(f"Unknown model ({name})")
    return Model(in_chans)
"""


def config(name, **model):
    """Return a config of a model of timm."""
    return Config.from_plain({"MODEL": {"NAME": f"timm/{name}", "HEADS": {"species": 4}, **model}})


@pytest.fixture
def timm(tmp_path, monkeypatch):
    """A package of that name, with one model."""
    (tmp_path / "timm.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    yield
    sys.modules.pop("timm", None)


def test_a_backbone_by_name_gets_a_head_for_each_rank(timm):
    """MODEL.NAME timm/… builds it, with the channels and heads of the config."""
    model = build_model(config("convnext_small_of_tests", IN_CHANS=1))
    assert model(torch.rand(2, 1, 8, 8))["species"].shape == (2, 4)


def test_weights_of_the_authors_reach_a_backbone_of_timm(timm, tmp_path):
    """Through the wrapper's prefix and timm's names, every parameter of the backbone."""
    state = convnext((8, 16, 32, 64), (1, 1, 1, 1))
    torch.save({"model": state}, tmp_path / "conv.pth")
    cfg = config("convnext_small_of_tests", PRETRAINED=str(tmp_path / "conv.pth"))
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert report.coverage == 1.0
    assert torch.equal(
        model.backbone.stages[0].blocks[0].mlp["fc1"].weight, state["stages.0.0.pwconv1.weight"]
    )


def test_a_name_that_timm_does_not_know_is_a_config_error(timm):
    """The package's own words are in the error."""
    with pytest.raises(ConfigError, match=r"Unknown model"):
        build_model(config("nonsense"))


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_the_package_the_error_says_how_to_get_it():
    """No ImportError escapes."""
    with pytest.raises(ConfigError, match="pip install timm"):
        build_model(config("convnext_tiny"))


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_real_model_of_timm_is_built():
    """Where the package is installed, its ConvNeXt is a backbone."""
    with torch.device("meta"):
        model = build_model(config("convnext_tiny"))
    assert "backbone.stem.0.weight" in model.state_dict()
