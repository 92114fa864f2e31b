"""Checkpoints laid out as they are published, into every size of mFormer and into other models."""

import pytest
import torch
from torch import nn

from linnaeus import pth
from linnaeus.config import Config
from linnaeus.models import VARIANTS, build_model, mFormer
from linnaeus.pretrained import load_pretrained, preview, stitch
from support.published import CONVNEXT, ROPEVIT, convnext, ropevit
from support.reference import convnext_map, ropevit_features

SOURCES = {
    "mFormer_sm": ("tiny", "small"),
    "mFormer_md": ("small", "small"),
    "mFormer_lg": ("large", "base"),
    "mFormer_xl": ("xlarge", "large"),
}


def config(cache, **model):
    """Return a config of a model and a cache directory."""
    options = {"NAME": "mFormer_nano", "HEADS": {"species": 10}, **model}
    return Config.from_plain({"MODEL": options, "ENV": {"INPUT": {"CACHE_DIR": str(cache)}}})


def numbers(dims, dim, depth):
    """Return what a stitched load must report by the papers' shapes: (convnext, ropevit, adapted)."""
    conv = 48 * dims[0] + 3 * dims[0]
    conv += sum(2 * a + 4 * a * b + b for a, b in ((dims[0], dims[1]), (dims[1], dims[2])))
    conv += 3 * sum(8 * d * d + 58 * d for d in dims[:2])
    block = 12 * dim * dim + 13 * dim + 2 * dim
    return conv, dim + depth * (block + dim) + 2 * dim, depth * dim


@pytest.mark.parametrize("name", SOURCES)
def test_every_size_is_covered_and_the_numbers_are_those_of_the_papers(name, tmp_path):
    """Rehearsed from headers alone: all that the two sources can give, and as many as the shapes say."""
    conv, vit = SOURCES[name]
    with torch.device("meta"):
        state = {"convnext": convnext(*CONVNEXT[conv]), "ropevit": ropevit(*ROPEVIT[vit])}
    for source, tensors in state.items():  # of one value each, so that a gigabyte of shapes is a small file
        small = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in tensors.items()}
        torch.save({"model": small}, tmp_path / f"{source}.pth")
    keys = {"PRETRAINED_CONVNEXT": "convnext.pth", "PRETRAINED_ROPEVIT": "ropevit.pth"}
    cfg = config(tmp_path, NAME=name, **keys)
    with torch.device("meta"):
        report = preview(cfg, build_model(cfg))
    dims, dim, depth = CONVNEXT[conv][0], *ROPEVIT[vit][:2]
    of_conv, of_vit, adapted = numbers(dims, dim, depth)
    assert [source.num_arrived for source in report.sources] == [of_conv, of_vit]
    assert [source.coverage for source in report.sources] == [1.0, 1.0]
    assert (report.num_adapted, report.num_fresh) == (adapted, 10 * dim + 10)
    assert report.num_loaded == of_conv + of_vit - adapted
    assert report.is_enough
    assert not report.conflicts


def test_the_stitched_small_model_computes_what_its_sources_do(tmp_path):
    """At full size: the features of both parts equal the sources' own formulas to 1e-5."""
    torch.manual_seed(0)
    conv, vit = convnext(*CONVNEXT["tiny"]), ropevit(*ROPEVIT["small"])
    for state in (conv, vit):
        for name, tensor in state.items():  # of a size that keeps activations near one
            if tensor.ndim > 1 and "token" not in name and name != "freqs":
                tensor.mul_(10 / tensor[0].numel() ** 0.5)
    torch.save({"model": conv}, tmp_path / "conv.pth")
    torch.save({"model": vit}, tmp_path / "vit.pth")
    keys = {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}
    cfg = config(tmp_path, NAME="mFormer_sm", ROPE_STAGES={"LAYER_SCALE": None}, **keys)
    model = build_model(cfg)
    assert load_pretrained(cfg, model).coverage == 1.0
    images, tokens = torch.rand(1, 3, 64, 48), torch.randn(1, 384, 4, 3)
    with torch.no_grad():
        found = model.forward_conv(images), model.forward_tokens(tokens)
        expected = convnext_map(conv, images, (3, 3)), ropevit_features(vit, tokens, 12, 6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def of_published_size(shapes, num_blocks):
    """Return values that keep activations near one for what a model takes, one zero for the rest."""
    used = ("downsample_layers.0", "downsample_layers.1", "downsample_layers.2", "stages.0.", "stages.1.")
    used += (*(f"blocks.{n}." for n in range(num_blocks)), "cls_token", "norm", "freqs")
    state = {}
    for name, shape in shapes.items():
        if name.startswith(used):
            scale = 0.3 if name == "freqs" or len(shape) < 2 else 10 / shape[1:].numel() ** 0.5
            state[name] = torch.empty(shape).uniform_(-scale, scale)
        else:
            state[name] = torch.zeros(1).expand(shape)  # so that gigabytes nobody takes are a small file
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mFormer_lg", "mFormer_xl"])
def test_the_large_sizes_compute_what_their_sources_do(name, tmp_path):
    """All values loaded, up to 1.2 GB: both parts' features equal the sources' own formulas to 1e-5."""
    torch.manual_seed(0)
    (conv_kind, vit_kind), (dim, depth, heads) = SOURCES[name], ROPEVIT[SOURCES[name][1]]
    with torch.device("meta"):
        of_conv, of_vit = convnext(*CONVNEXT[conv_kind]), ropevit(*ROPEVIT[vit_kind])
    conv, vit = (
        of_published_size({n: tensor.shape for n, tensor in state.items()}, depth)
        for state in (of_conv, of_vit)
    )
    torch.save({"model": conv}, tmp_path / "conv.pth")
    torch.save({"model": vit}, tmp_path / "vit.pth")
    cfg = config(tmp_path, NAME=name, PRETRAINED_CONVNEXT="conv.pth", PRETRAINED_ROPEVIT="vit.pth")
    model = build_model(cfg)
    assert load_pretrained(cfg, model).coverage == 1.0
    images, tokens = torch.rand(1, 3, 32, 32), torch.randn(1, dim, 2, 2)
    with torch.no_grad():
        found = model.forward_conv(images), model.forward_tokens(tokens)
        expected = convnext_map(conv, images, (3, 3)), ropevit_features(vit, tokens, depth, heads)
    for one, other in zip(found, expected, strict=True):
        assert 0.1 < other.abs().max() < 100
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("theta", [100.0, 50.0])
def test_axial_weights_compute_the_same_on_another_grid(theta, tmp_path):
    """Published at 14 x 14 tokens, an axial source gives on 24 x 24 what its formula gives there."""
    vit = ropevit(96, 3, 3, mlp_ratio=2, mixed=False)
    torch.save({"model": vit}, tmp_path / "vit.pth")
    rope = {"ROPE_MIXED": False, "ROPE_THETA": 100.0} if theta == 100.0 else {"ROPE_THETA": theta}
    cfg = config(tmp_path, PRETRAINED_ROPEVIT="vit.pth", ROPE_STAGES=rope)
    model = build_model(cfg)
    load_pretrained(cfg, model)
    tokens = torch.randn(1, 96, 24, 24)
    with torch.no_grad():
        expected = ropevit_features(vit, tokens, 3, 3, theta=100.0)
        torch.testing.assert_close(model.forward_tokens(tokens), expected, rtol=0, atol=1e-5)


def as_timm(state):
    """Return a ConvNeXt's state under the names that timm gives it."""
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if name.startswith("downsample_layers.0."):
            name = ".".join(["stem", *parts[2:]])
        elif parts[0] == "downsample_layers":
            name = ".".join(["stages", parts[1], "downsample", *parts[2:]])
        elif parts[0] == "stages":
            last = {"dwconv": "conv_dw", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
            name = ".".join(
                ["stages", parts[1], "blocks", parts[2], last.get(parts[3], parts[3]), *parts[4:]]
            )
        elif parts[0] in ("norm", "head"):
            name = f"head.{'fc' if parts[0] == 'head' else 'norm'}.{parts[1]}"
        renamed[name] = tensor
    return renamed


def planted(state):
    """Return a module that has parameters of these names, with other values."""
    model = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = model
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(torch.zeros_like(tensor)))
    return model


def small_convnext():
    """Return a ConvNeXt of small widths, as its authors name it."""
    return convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=3, patch=1)


def test_a_convnext_by_timms_names_is_stitched_like_the_authors(tmp_path):
    """The names of timm lead to the same parameters of mFormer."""
    torch.save(as_timm(small_convnext()), tmp_path / "conv.pth")
    cfg = config(tmp_path, PRETRAINED_CONVNEXT="conv.pth")
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert report.coverage == 1.0
    assert torch.equal(model.stages[1][0].pwconv1.weight, small_convnext()["stages.1.0.pwconv1.weight"])
    assert report.sources[0].rules == "convnext_timm, convnext"


@pytest.mark.parametrize("source", ["authors", "timm"])
@pytest.mark.parametrize("target", ["authors", "timm"])
def test_authors_and_timms_names_are_translated_both_ways(source, target, tmp_path):
    """A whole ConvNeXt goes from either naming into a model of either naming, every tensor to its place."""
    given = small_convnext() if source == "authors" else as_timm(small_convnext())
    wanted = small_convnext() if target == "authors" else as_timm(small_convnext())
    torch.save({"model": given}, tmp_path / "conv.pth")
    model = planted(wanted)
    report = load_pretrained(config(tmp_path, PRETRAINED="conv.pth"), model)
    assert report.num_fresh == 0
    assert all(torch.equal(p, wanted[name]) for name, p in model.named_parameters())


def earlier(state_conv, state_vit, depth):
    """Return a state as mFormerV1 of earlier versions names it, with a second transformer stage."""
    state = {}
    for name, tensor in state_conv.items():
        parts = name.split(".")
        if name.startswith("downsample_layers.0."):
            state[".".join(["stem", *parts[2:]])] = tensor
        elif parts[0] == "downsample_layers":
            part = {"0": "norm", "1": "conv"}[parts[2]]
            state[f"downsample_layers.{int(parts[1]) - 1}.{part}.{parts[3]}"] = tensor
        elif parts[0] == "stages" and parts[1] in "01":
            state[name] = tensor
    for name, tensor in state_vit.items():
        if name.startswith("blocks.") and "gamma" not in name:
            state[f"stages.2.{name.removeprefix('blocks.')}"] = tensor
    for block in range(depth):
        state[f"stages.2.{block}.attn.freqs"] = state_vit["freqs"][:, block].view(2, 3, 16)
    state |= {"cls_token_1": state_vit["cls_token"], "cls_token_2": torch.rand(1, 1, 192)}
    state |= {f"norm_1.{kind}": state_vit[f"norm.{kind}"] for kind in ("weight", "bias")}
    state |= {f"final_norm.{kind}": torch.rand(192) for kind in ("weight", "bias")}
    state |= {f"stages.3.0.norm1.{kind}": torch.rand(192) for kind in ("weight", "bias")}
    return state


def test_checkpoints_of_earlier_versions_fill_what_they_can(tmp_path):
    """Every parameter of mFormer's backbone comes from an mFormerV1's first transformer stage."""
    conv, vit = small_convnext(), ropevit(96, 3, 3, mlp_ratio=2)
    torch.save({"model": earlier(conv, vit, 3), "epoch": 7}, tmp_path / "v1.pth")
    cfg = config(tmp_path, PRETRAINED="v1.pth")
    model = build_model(cfg)
    report = load_pretrained(cfg, model)
    assert (report.coverage, report.sources[0].rules) == (1.0, "linnaeus_v1")
    assert torch.equal(model.blocks[2].mlp.fc1.weight, vit["blocks.2.mlp.fc1.weight"])
    assert torch.equal(model.downsample_layers[2][1].weight, conv["downsample_layers.2.1.weight"])
    assert torch.equal(model.blocks[1].freqs, vit["freqs"][:, 1].view(2, 3, 16))
    assert {u.name.split(".")[0] for u in report.unused} == {
        "downsample_layers",
        "cls_token_2",
        "final_norm",
        "stages",
    }


def test_a_metaformer_is_loaded_as_such(tmp_path):
    """PRETRAINED_SOURCE metaformer takes its tables to another window and leaves what the model computes."""
    from support.vits import WindowAttention

    def metaformer(window):
        model = nn.Module()
        model.stage_0 = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
        model.cls_token_1 = nn.Parameter(torch.rand(1, 1, 4))
        block = nn.Module()
        block.attn = WindowAttention(window, num_others=1, first_row=True)
        model.stage_3 = nn.ModuleList([block])
        return model

    source, model = metaformer((3, 3)), metaformer((5, 5))
    torch.save({"model": source.state_dict()}, tmp_path / "meta.pth")
    cfg = config(tmp_path, PRETRAINED="meta.pth", PRETRAINED_SOURCE="metaformer")
    report = load_pretrained(cfg, model)
    assert (report.coverage, report.sources[0].rules) == (1.0, "metaformer")
    assert torch.equal(model.stage_0[0].weight, source.stage_0[0].weight)
    assert report.num_adapted == model.stage_3[0].attn.relative_position_bias_table.numel()


CONTAINERS = [
    "model",
    "state_dict",
    "model_state",
    "state_dict_ema",
    "model_ema",
    "ema",
    "teacher",
    "student",
    "net",
]


@pytest.mark.parametrize("container", [*CONTAINERS, "", "checkpoint.model"])
@pytest.mark.parametrize("form", ["zip", "old", "ours"])
def test_weights_are_found_under_every_usual_key(container, form, tmp_path):
    """Under each key that people use, bare, or under a key that the config names; in any `.pth`."""
    state = small_convnext()
    obj = state
    for key in reversed(container.split(".") if container else []):
        obj = {key: obj, "epoch": 3}
    if form == "ours":
        pth.save(obj, tmp_path / "conv.pth")
    else:
        torch.save(obj, tmp_path / "conv.pth", _use_new_zipfile_serialization=form == "zip")
    named = {"PRETRAINED_CONTAINER": container} if "." in container else {}
    model = planted(state)
    report = load_pretrained(config(tmp_path, PRETRAINED="conv.pth", **named), model)
    assert report.sources[0].container == container
    assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("spread", [False, True])
def test_safetensors_are_loaded_also_when_they_are_several(spread, tmp_path):
    """One file, or an index with the files that it names, in the cache."""
    import json

    from safetensors.torch import save_file

    state = small_convnext()
    name = "conv.safetensors"
    if spread:
        names = list(state)
        places = {n: f"conv-{i % 3}.safetensors" for i, n in enumerate(names)}
        for part in set(places.values()):
            save_file({n: state[n] for n in names if places[n] == part}, tmp_path / part)
        name = "conv.safetensors.index.json"
        (tmp_path / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    else:
        save_file(state, tmp_path / name)
    model = planted(state)
    report = load_pretrained(config(tmp_path, PRETRAINED=name), model)
    assert report.num_fresh == 0
    assert all(torch.equal(p, state[n]) for n, p in model.named_parameters())
    assert report.num_unused == 0


@pytest.mark.parametrize("form", ["zip", "old", "ours", "safetensors"])
def test_a_rehearsal_tells_what_the_load_does(form, tmp_path):
    """The report from headers is that of the real load, in every format."""
    from safetensors.torch import save_file

    state = small_convnext()
    name = "conv.safetensors" if form == "safetensors" else "conv.pth"
    if form == "safetensors":
        save_file(state, tmp_path / name)
    elif form == "ours":
        pth.save({"model": state}, tmp_path / name)
    else:
        torch.save({"model": state}, tmp_path / name, _use_new_zipfile_serialization=form == "zip")
    cfg = config(tmp_path, PRETRAINED_CONVNEXT=name)
    with torch.device("meta"):
        foretold = preview(cfg, build_model(cfg))
    assert foretold == load_pretrained(cfg, build_model(cfg))


def test_half_precision_weights_that_lie_turned_in_their_file_arrive(tmp_path):
    """A transposed view of float16 in the file is read by its strides and cast to the model's float32."""
    model = nn.Linear(6, 4)
    weight = torch.randn(6, 4).half()
    torch.save({"weight": weight.t(), "bias": torch.ones(4)}, tmp_path / "x.pth")
    load_pretrained(config(tmp_path, PRETRAINED="x.pth"), model)
    assert torch.equal(model.weight, weight.t().float())


def test_any_size_can_be_built_without_memory_and_rehearsed():
    """All sizes exist on the meta device, with the constants of axial models known."""
    with torch.device("meta"):
        for shape in VARIANTS.values():
            mFormer(shape, heads={"species": 2})
        from dataclasses import replace

        axial = mFormer(replace(VARIANTS["mFormer_nano"], rope_mixed=False), heads={"species": 2})
        axial.forward_features(torch.empty(1, 3, 8, 8))
    assert not axial.blocks[0].freqs.is_meta
    assert axial.cls_token.is_meta


def test_a_rehearsal_sees_another_rotary_base(tmp_path):
    """Also from headers, and with a model without memory, constants that differ are a conflict."""
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2, mixed=False)}, tmp_path / "vit.pth")
    rope = {"ROPE_MIXED": False, "ROPE_THETA": 10_000}
    cfg = config(tmp_path, PRETRAINED_ROPEVIT="vit.pth", ROPE_STAGES=rope)
    with torch.device("meta"):
        report = preview(cfg, build_model(cfg))
    assert any("base 10000" in conflict and "base 100" in conflict for conflict in report.conflicts)
    assert not report.is_enough


def test_a_recipe_fills_a_model_of_anybodys(tmp_path):
    """Three sources, merged and renamed by a recipe's own rules, into a module that is none of ours."""
    model = nn.Module()
    model.eyes, model.brain, model.voice = nn.Linear(4, 6), nn.Linear(4, 12), nn.Linear(2, 2)
    parts = {
        f"enc.{p}.{k}": torch.rand(4, 4) if k == "weight" else torch.rand(4)
        for p in "qkv"
        for k in ("weight", "bias")
    }
    files = {
        "a.pth": {"vision.weight": torch.rand(6, 4), "vision.bias": torch.rand(6)},
        "b.pth": parts,
        "c.pth": {"out.weight": torch.rand(2, 2), "out.bias": torch.rand(2)},
    }
    for name, state in files.items():
        torch.save({"net": state}, tmp_path / name)
    merge = {"merge": {"names": [f"enc.{p}.{{kind}}" for p in "qkv"], "to": "brain.{kind}"}}
    recipe = {
        "sources": {
            "a": {
                "checkpoint": "a.pth",
                "rules": [{"rename": {"prefix": "vision.", "to": "eyes."}}],
                "claims": ["eyes."],
            },
            "b": {"checkpoint": "b.pth", "rules": [merge], "claims": ["brain."]},
            "c": {
                "checkpoint": "c.pth",
                "rules": [{"rename": {"prefix": "out.", "to": "voice."}}],
                "claims": ["voice."],
            },
        },
        "joints": [{"a": {"name": "eyes.weight", "dim": 1}, "b": {"name": "brain.weight", "dim": 1}}],
    }
    report = stitch(recipe, model, config(tmp_path))
    assert report.coverage == 1.0
    expected = torch.cat([parts[f"enc.{p}.weight"] for p in "qkv"])
    assert torch.equal(model.brain.weight, expected)
    assert torch.equal(model.voice.bias, files["c.pth"]["out.bias"])
    assert {a.claimants for a in report.arrivals} == {("a",), ("b",), ("c",)}
