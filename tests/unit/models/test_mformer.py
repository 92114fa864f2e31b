import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from linnaeus.errors import ConfigError
from linnaeus.models import VARIANTS, MFormerShape, mFormer

HEADS = {"species": 7, "genus": 3}
NANO = VARIANTS["mFormer_nano"]


def nano(**changes):
    """Build a nano model with some fields of its shape changed."""
    torch.manual_seed(0)
    return mFormer(replace(NANO, **changes), heads=HEADS, in_chans=1)


@pytest.mark.parametrize("size", [8, 16])
def test_nano_gives_logits_for_every_rank(size):
    """Forward maps images to a dict of logits, one row per image, one column per class."""
    logits = nano()(torch.rand(5, 1, size, size))
    assert {rank: tuple(t.shape) for rank, t in logits.items()} == {"species": (5, 7), "genus": (5, 3)}


@pytest.mark.parametrize(
    ("name", "width", "blocks"),
    [("mFormer_sm", 384, 12), ("mFormer_md", 384, 12), ("mFormer_lg", 768, 12), ("mFormer_xl", 1024, 24)],
)
def test_the_published_sizes_map_224_pixels_to_14x14_tokens(name, width, blocks):
    """Each size has the width and depth of the RoPE-ViT it takes after, and its stride of 16."""
    with torch.device("meta"):
        model = mFormer(VARIANTS[name], heads={"species": 10})
        images = torch.empty(2, 3, 224, 224)
    assert model.forward_conv(images).shape == (2, width, 14, 14)
    assert model.forward_features(images).shape == (2, width)
    assert model(images)["species"].shape == (2, 10)
    assert len(model.blocks) == blocks


def conv_parameters(dims, depths, *, in_chans=3, patch=4):
    """Count a ConvNeXt's parameters up to its third downsampler, from the shapes in the paper."""
    count = in_chans * patch**2 * dims[0] + dims[0] + 2 * dims[0]
    count += sum(2 * a + 4 * a * b + b for a, b in itertools.pairwise(dims))
    blocks = [(49 * d + d) + 2 * d + (4 * d * d + 4 * d) + (4 * d * d + d) + d for d in dims]
    return count + sum(n * block for n, block in zip(depths, blocks, strict=False))


def vit_parameters(dim, depth):
    """Count a RoPE-ViT's parameters without patch embedding and head: mixed frequencies, LayerScale."""
    block = (
        4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim) + 2 * dim + dim
    )
    return dim + depth * block + 2 * dim


@pytest.mark.parametrize("name", ["mFormer_sm", "mFormer_md", "mFormer_lg", "mFormer_xl"])
def test_parameter_counts_follow_from_the_papers(name):
    """Convolution part and transformer part have as many parameters as the published shapes say."""
    shape = VARIANTS[name]
    with torch.device("meta"):
        model = mFormer(shape, heads={"species": 10})
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    conv = sum(s for n, s in sizes.items() if n.startswith(("downsample_layers.", "stages.")))
    vit = sum(s for n, s in sizes.items() if n.startswith(("cls_token", "blocks.", "norm.")))
    assert conv == conv_parameters(shape.conv_dims, shape.conv_depths)
    assert vit == vit_parameters(shape.dim, shape.depth)
    assert conv + vit + shape.dim * 10 + 10 == sum(sizes.values())


@pytest.mark.parametrize("changes", [{}, {"layer_scale": 0.1}, {"rope_mixed": False}])
def test_gradients_reach_every_parameter(changes):
    """After one backward pass no parameter is without a gradient, and none of them is zero throughout."""
    model = nano(**changes)
    logits = model(torch.randn(4, 1, 16, 16))
    sum(F.cross_entropy(t, torch.arange(4) % t.shape[1]) for t in logits.values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_seed_decides_the_weights():
    """Two models built after the same seed are the same; forward draws nothing."""
    first, second = nano(), nano()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    images = torch.rand(2, 1, 8, 8)
    state = torch.get_rng_state()
    first(images)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_floating_dtype_works(dtype):
    """A model cast to another dtype answers in that dtype and close to single precision."""
    images = torch.rand(2, 1, 8, 8)
    expected = nano()(images)["species"]
    logits = nano().to(dtype)(images.to(dtype))["species"]
    assert logits.dtype is dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)


def test_nano_learns():
    """Fifty steps are enough to tell upright stripes from level ones."""
    torch.manual_seed(0)
    model = mFormer(NANO, heads={"side": 2}, in_chans=1)
    sides = torch.arange(32) % 2
    images = 0.3 * torch.rand(32, 1, 8, 8)
    images[sides == 0, :, :, ::2] += 0.5
    images[sides == 1, :, ::2] += 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images)["side"], sides).backward()
        optimizer.step()
    assert (model(images)["side"].argmax(1) == sides).all()


def test_parts_that_do_not_meet_are_refused_naming_both_widths():
    """A convolution part that ends narrower than the blocks is a ConfigError with the two widths."""
    with pytest.raises(ConfigError, match=r"384 wide.*end 768 wide"):
        MFormerShape(conv_dims=(192, 384, 768), dim=384, depth=12, num_heads=6)


def test_heads_that_do_not_divide_the_width_are_refused():
    """Rotary pairs in two directions need a multiple of four channels per head."""
    with pytest.raises(ConfigError, match="NUM_HEADS"):
        replace(NANO, num_heads=5)


@pytest.mark.parametrize("heads", [{"a.b": 2}, {"type": 2}, {"": 2}, {"species": 0}])
def test_ranks_that_can_not_be_heads_are_refused(heads):
    """A rank's name must do as a module's name, and a rank has at least one class."""
    with pytest.raises(ConfigError, match="HEADS"):
        mFormer(NANO, heads=heads)
