"""Parts that can't be left out without the rest meaning another thing."""

import pytest
import torch
from torch import nn

from linnaeus.config import Config
from linnaeus.errors import ConfigError, IncompatibleWeightsError
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained, preview, stitch
from support.published import convnext, ropevit


class Block(nn.Module):
    """A branch, with what is said of it."""

    def __init__(self, **more):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        for name, module in more.items():
            setattr(self, name, module)


class Scale(nn.Module):
    """timm's LayerScale."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


def holder(**tensors):
    """Return a module that holds tensors."""
    module = nn.Module()
    module.block = Block()
    for name, tensor in tensors.items():
        module.register_parameter(name, nn.Parameter(tensor))
    return module


def load(tmp_path, state, model, **options):
    """Load a state dict from a file."""
    torch.save(state, tmp_path / "w.pth")
    cfg = Config.from_plain({"MODEL": {"PRETRAINED": str(tmp_path / "w.pth"), **options}})
    return load_pretrained(cfg, model)


@pytest.mark.parametrize(
    "name", ["gamma", "gamma_2", "ls1.gamma", "layer_scale_1", "layer_scale1.weight", "lambda1"]
)
def test_a_scale_without_a_place_is_refused(tmp_path, name):
    """However it is called: what it scales would compute another thing."""
    state = Block().state_dict()
    state[name] = torch.ones(4)
    model = nn.ModuleDict({"block": Block()})
    before = model["block"].fc.weight.clone()
    with pytest.raises(
        IncompatibleWeightsError, match=f"block.{name}: a scale that the model has no place for"
    ):
        load(tmp_path, {f"block.{key}": tensor for key, tensor in state.items()}, model)
    assert torch.equal(model["block"].fc.weight, before)


def test_a_scale_that_has_a_place_or_nothing_to_scale_is_none(tmp_path):
    """A norm's gamma, which has a beta; a scale of a block that the model does not have."""
    model = nn.ModuleDict({"block": Block(ls1=Scale())})
    state = {f"block.{name}": tensor for name, tensor in Block(ls1=Scale()).state_dict().items()}
    more = {"other.gamma": torch.ones(4), "block.norm.gamma": torch.ones(4), "block.norm.beta": torch.ones(4)}
    assert load(tmp_path, {**state, **more}, model).coverage == 1.0


def test_positions_without_a_place_are_refused(tmp_path):
    """What was trained with absolute positions is not loaded without them."""
    with pytest.raises(IncompatibleWeightsError, match="pos_embed: positions"):
        load(tmp_path, holder(pos_embed=torch.ones(1, 4, 2)).state_dict(), holder())


def test_a_plain_vit_does_not_pass_for_a_ropevit(tmp_path):
    """It has a RoPE-ViT's names but for the frequencies, and positions instead; a recipe may drop them."""
    plain = ropevit(96, 3, 3, mixed=False, mlp_ratio=2) | {"pos_embed": torch.randn(1, 197, 96)}
    torch.save({"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), patch=1)}, tmp_path / "conv.pth")
    torch.save({"model": plain}, tmp_path / "vit.pth")
    options = {"NAME": "mFormer_nano", "HEADS": {"species": 4}}
    both = {
        name: str(tmp_path / file)
        for name, file in (("PRETRAINED_CONVNEXT", "conv.pth"), ("PRETRAINED_ROPEVIT", "vit.pth"))
    }
    cfg = Config.from_plain({"MODEL": options | both})
    model = build_model(cfg)
    with pytest.raises(IncompatibleWeightsError, match="pos_embed: positions"):
        load_pretrained(cfg, model)
    assert not preview(cfg, model).is_enough
    own = {"drop": {"prefix": "pos_embed", "why": "they are trained anew"}}
    source = {"checkpoint": str(tmp_path / "vit.pth"), "rules": ["ropevit", own]}
    recipe = {"sources": {"vit": {**source, "claims": ["blocks.", "cls_token", "norm."]}}}
    assert stitch(recipe, model).coverage == 1.0


def test_a_ropevit_as_timm_names_it_fills_an_mformer(tmp_path):
    """Its frequencies stand under `rope.freqs`, heads apart."""
    state = ropevit(96, 3, 3, mlp_ratio=2)
    freqs = state.pop("freqs")
    state = {name: tensor for name, tensor in state.items() if not name.startswith("freqs_t")}
    state["rope.freqs"] = freqs.view(2, 3, 3, 16)
    torch.save(state, tmp_path / "vit.pth")
    options = {
        "NAME": "mFormer_nano",
        "HEADS": {"species": 4},
        "PRETRAINED_ROPEVIT": str(tmp_path / "vit.pth"),
    }
    cfg = Config.from_plain({"MODEL": options})
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert report.coverage == 1.0
    assert torch.equal(model.blocks[2].freqs, freqs[:, 2].view(2, 3, 16))


def vit_like(**more):
    """Return a module with one block and what tells a RoPE-ViT."""
    shapes = {
        "cls_token": (1, 1, 8),
        "patch_embed.proj.weight": (8, 3, 2, 2),
        "blocks.0.attn.qkv.weight": (24, 8),
    }
    module = nn.Module()
    for name, shape in {**shapes, **more}.items():
        *path, last = name.split(".")
        inner = module
        for part in path:
            inner.add_module(part, inner._modules.get(part) or nn.Module())
            inner = inner._modules[part]
        inner.register_parameter(last, nn.Parameter(torch.randn(shape)))
    return module


def test_frequencies_without_a_place_are_refused(tmp_path):
    """A RoPE-ViT's learned frequencies do not get lost in a model that knows none."""
    with pytest.raises(IncompatibleWeightsError, match="freqs: positions that the model has no place for"):
        load(tmp_path, vit_like(freqs=(2, 1, 4)).state_dict(), vit_like())


def test_frequencies_are_viewed_in_the_shape_of_timm_and_back(tmp_path):
    """Heads apart or together: the same numbers."""
    authors, timms = vit_like(freqs=(2, 1, 4)), vit_like(**{"rope.freqs": (2, 1, 2, 2)})
    state = authors.state_dict()
    assert load(tmp_path, state, timms).coverage == 1.0
    assert torch.equal(timms.rope.freqs, state["freqs"].view(2, 1, 2, 2))
    back = vit_like(freqs=(2, 1, 4))
    assert load(tmp_path, timms.state_dict(), back).coverage == 1.0
    assert torch.equal(back.freqs, state["freqs"])


def test_a_batch_norm_without_statistics_is_refused(tmp_path):
    """Its scale alone normalizes with what nobody measured; a model may say that it drops them."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {name: tensor for name, tensor in model.state_dict().items() if "running" not in name}
    with pytest.raises(IncompatibleWeightsError, match=r"1\.running_var: the batch norm would be"):
        load(tmp_path, state, model)
    model.pretrained_ckpt_handling_metadata = {"drop_buffers": ["1.running"]}
    assert load(tmp_path, state, model).coverage == 1.0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_not_read_without_their_scales(tmp_path, dtype):
    """Cast as they are they would be other weights."""
    state = {name: tensor.to(dtype) for name, tensor in holder().state_dict().items()}
    with pytest.raises(IncompatibleWeightsError, match=r"float32 in the model, .* float8"):
        load(tmp_path, state, holder())


def test_a_source_that_claims_nothing_is_a_mistake():
    """An empty list of claims is told at once."""
    with pytest.raises(ConfigError, match="claims nothing"):
        stitch({"sources": {"one": {"checkpoint": "w.pth", "claims": []}}}, holder())
