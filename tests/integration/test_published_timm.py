"""mFormer against models of timm, another's code for the same papers. Optional: `make published`."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from linnaeus.config import Config
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained
from support.published import CONVNEXT, ROPEVIT, convnext, ropevit
from support.reference import convnext_map

Make = Callable[[str], Any]
_HERE = Path(sys.prefix, "published")


@pytest.fixture(scope="module")
def timm() -> Iterator[ModuleType]:
    """Return the package; skip where it is not installed."""
    known, sys.path[:] = [*sys.path], [*sys.path, str(_HERE)]
    # What torchvision looks for as it is imported, where it is built for another kind of torch.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        try:
            found = importlib.import_module("timm")
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"no timm here ({error}): make published")
        finally:
            sys.path[:] = known
        yield found
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # as if it were not installed, for the other tests


def made(timm: ModuleType, name: str) -> Any:
    """Return a model of timm, its weights drawn so that activations stay near one."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.3 if "freqs" in key or parameter.dim() < 2 else 10 / parameter[0].numel() ** 0.5
            parameter.uniform_(-scale, scale)
    return model


def config(tmp_path: Path, **model: object) -> Config:
    """Return a config whose cache is a directory."""
    options = {"HEADS": {"species": 10}, **model}
    return Config.from_plain({"MODEL": options, "ENV": {"INPUT": {"CACHE_DIR": str(tmp_path)}}})


@pytest.mark.parametrize(
    ("name", "mixed"), [("vit_small_patch16_rope_mixed_224", True), ("vit_small_patch16_rope_224", False)]
)
def test_a_stitched_model_computes_what_models_of_timm_do(
    timm: ModuleType, tmp_path: Path, name: str, mixed: bool
) -> None:
    """Their weights, stitched: both parts give what timm's own forward gives, to 1e-5."""
    conv, vit = made(timm, "convnext_tiny"), made(timm, name)
    torch.save(conv.state_dict(), tmp_path / "conv.pth")
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    both = {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}
    rope = {"ROPE_MIXED": mixed, "LAYER_SCALE": None}
    cfg = config(tmp_path, NAME="mFormer_sm", ROPE_STAGES=rope, **both)
    model = build_model(cfg)
    assert load_pretrained(cfg, model).coverage == 1.0
    images = torch.rand(1, 3, 224, 224)
    maps: list[torch.Tensor] = []
    conv.stages[2].downsample.register_forward_hook(lambda _, __, out: maps.append(out))
    with torch.no_grad():
        conv(images)
        found, tokens = model.forward_conv(images), vit.patch_embed.proj(images)
        expected = vit.forward_head(vit.forward_features(images), pre_logits=True)
        torch.testing.assert_close(found, maps[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(model.forward_tokens(tokens), expected, rtol=0, atol=1e-5)


def test_weights_of_the_authors_compute_the_same_in_timms_model(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ConvNeXt as published, loaded into timm's model by linnaeus: what the paper's formula gives."""
    state = convnext(*CONVNEXT["tiny"])
    torch.save({"model": state}, tmp_path / "conv.pth")
    cfg = config(tmp_path, NAME="timm/convnext_tiny", PRETRAINED="conv.pth")
    monkeypatch.setitem(sys.modules, "timm", timm)
    model: Any = build_model(cfg).eval()
    assert load_pretrained(cfg, model).coverage == 1.0
    maps: list[torch.Tensor] = []
    model.backbone.stages[2].downsample.register_forward_hook(lambda _, __, out: maps.append(out))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(images)
        torch.testing.assert_close(maps[0], convnext_map(state, images, (3, 3)), rtol=0, atol=1e-5)


def test_a_ropevit_of_the_authors_fills_a_model_of_timm(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor that the authors publish has its place there, the frequencies with heads apart."""
    state = ropevit(*ROPEVIT["small"])
    torch.save({"model": state}, tmp_path / "vit.pth")
    cfg = config(tmp_path, NAME="timm/vit_small_patch16_rope_mixed_224", PRETRAINED="vit.pth")
    monkeypatch.setitem(sys.modules, "timm", timm)
    model: Any = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert report.coverage == 1.0
    assert torch.equal(model.backbone.rope.freqs, state["freqs"].view(2, 12, 6, 32))
