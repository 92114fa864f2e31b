"""Stitching in memory: sources as published into mFormer, and what must never happen silently again."""

from dataclasses import replace

import pytest
import torch

from linnaeus.errors import IncompatibleWeightsError
from linnaeus.models import VARIANTS, mFormer
from linnaeus.pretrained._account import account, claims_of
from linnaeus.pretrained._fit import Source, fit
from linnaeus.pretrained._plan import plan
from linnaeus.pretrained._recipe import STITCHED, packaged_recipe
from linnaeus.pretrained._rulebook import packaged_rules
from linnaeus.pretrained._targets import Wishes, targets_of
from linnaeus.pretrained._transfer import transfer
from linnaeus.pretrained._unwrap import unwrap
from support.published import CONVNEXT, ROPEVIT, convnext, ropevit
from support.reference import convnext_map, ropevit_features

NANO = VARIANTS["mFormer_nano"]
DIMS, DEPTHS = (24, 48, 96, 192), (1, 1, 2, 1)


def nano_convnext(**options):
    """Return a ConvNeXt that meets nano."""
    return convnext(DIMS, DEPTHS, **{"num_classes": 5, "patch": 1, **options})


def nano_ropevit(**options):
    """Return a RoPE-ViT that meets nano."""
    return ropevit(96, 3, 3, **{"mlp_ratio": 2, "num_classes": 5, **options})


def nano(**changes):
    """Return an mFormer_nano with some fields of its shape changed."""
    torch.manual_seed(7)
    in_chans = changes.pop("in_chans", 3)
    return mFormer(replace(NANO, **changes), heads={"species": 4}, in_chans=in_chans)


def sources_of(states):
    """Return state dicts, by the recipe's name for them, as the recipe's sources."""
    return [
        Source(
            name=part.name,
            identifier=f"{part.name}.pth",
            path=f"/cache/{part.name}.pth",
            unwrapped=unwrap({"model": states[part.name]}, part.name),
            rules=part.rules,
            claims=part.claims,
        )
        for part in packaged_recipe(STITCHED).sources
        if part.name in states
    ]


def stitch(model, *, min_coverage=0.9, **states):
    """Stitch state dicts, by the recipe's name for them, into a model."""
    joints = packaged_recipe(STITCHED).joints
    return transfer(sources_of(states), model, joints=joints, min_coverage=min_coverage)


def state_of(model):
    """Return a copy of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    """Assert that nothing in a model changed."""
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_published_sources_fill_the_whole_backbone():
    """ConvNeXt-tiny and RoPE-ViT-small give every parameter but the heads, downsamplers and freqs too."""
    torch.manual_seed(0)
    model = mFormer(VARIANTS["mFormer_sm"], heads={"species": 10})
    before = state_of(model)
    report = stitch(model, convnext=convnext(*CONVNEXT["tiny"]), ropevit=ropevit(*ROPEVIT["small"]))
    assert report.coverage == 1.0
    assert not report.mismatches
    same = {n for n, t in model.state_dict().items() if torch.equal(t, before[n])}
    assert same == {"heads.species.weight", "heads.species.bias"}


@pytest.mark.parametrize(
    ("name", "conv", "vit"),
    [
        ("mFormer_sm", "tiny", "small"),
        ("mFormer_md", "small", "small"),
        ("mFormer_lg", "large", "base"),
        ("mFormer_xl", "xlarge", "large"),
    ],
)
def test_every_size_is_covered_by_its_sources(name, conv, vit):
    """Planned on shapes alone: the two sources of each size leave no parameter of its backbone fresh."""
    with torch.device("meta"):
        model = mFormer(VARIANTS[name], heads={"species": 10})
        states = {"convnext": convnext(*CONVNEXT[conv]), "ropevit": ropevit(*ROPEVIT[vit])}
    targets, sources = targets_of(model), sources_of(states)
    found = fit(sources, targets, Wishes())
    made = plan(found, Wishes(), packaged_recipe(STITCHED).joints)
    claims = claims_of(found, targets, Wishes())
    report = account(model, targets, found, made, claims, min_coverage=0.9)
    assert (made.conflicts, made.mismatches, report.coverage) == ([], [], 1.0)
    heads = VARIANTS[name].dim * 10 + 10
    assert report.num_fresh == heads
    assert report.num_loaded + report.num_adapted == sum(p.numel() for p in model.parameters()) - heads


def test_no_block_goes_without_its_source():
    """All transformer blocks of the model are filled, at one width: none is a mismatch by design."""
    report = stitch(nano(), convnext=nano_convnext(), ropevit=nano_ropevit())
    assert {a.source for a in report.arrivals if a.name.startswith(("blocks.", "cls_token"))} == {"ropevit"}
    assert {a.source for a in report.arrivals if a.name.startswith(("stages.", "downsample_layers."))} == {
        "convnext"
    }


@pytest.mark.parametrize("layer_scale", [None, 1e-4])
@pytest.mark.parametrize("mixed", [True, False])
def test_a_stitched_model_computes_what_its_sources_do(layer_scale, mixed):
    """Convolution part and transformer part equal the sources' own formulas, LayerScale folded or kept."""
    conv, vit = nano_convnext(), nano_ropevit(mixed=mixed)
    model = nano(layer_scale=layer_scale)
    report = stitch(model, convnext=conv, ropevit=vit)
    assert report.coverage == 1.0
    images, patches = torch.rand(2, 3, 12, 8), torch.randn(2, 96, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_conv(images), convnext_map(conv, images, DEPTHS[:2], patch=1), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            model.forward_tokens(patches), ropevit_features(vit, patches, 3, 3), rtol=0, atol=1e-5
        )


def test_layer_scale_of_a_source_without_it_becomes_one():
    """A model with LayerScale computes what a source without it does."""
    vit = nano_ropevit(layer_scale=False)
    model = nano(layer_scale=1e-4)
    stitch(model, convnext=nano_convnext(), ropevit=vit)
    patches = torch.randn(2, 96, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_tokens(patches), ropevit_features(vit, patches, 3, 3), rtol=0, atol=1e-5
        )


def test_frequencies_of_a_whole_vit_are_split_over_its_blocks():
    """Block i holds freqs[:, i] as (2, heads, head_dim / 2), and the report says they were adapted."""
    vit, model = nano_ropevit(), nano()
    report = stitch(model, convnext=nano_convnext(), ropevit=vit)
    for i, block in enumerate(model.blocks):
        assert torch.equal(block.freqs, vit["freqs"][:, i].view(2, 3, 16))
    assert {a.status for a in report.arrivals if a.name.endswith("freqs")} == {"adapted"}


def test_norms_are_not_dropped_by_what_another_name_begins_with():
    """norm1 and norm2 in every block and the final norm arrive; ConvNeXt's own final norm does not."""
    conv, vit, model = nano_convnext(), nano_ropevit(), nano()
    report = stitch(model, convnext=conv, ropevit=vit)
    for i in range(3):
        assert torch.equal(model.blocks[i].norm1.weight, vit[f"blocks.{i}.norm1.weight"])
        assert torch.equal(model.blocks[i].norm2.bias, vit[f"blocks.{i}.norm2.bias"])
    assert torch.equal(model.norm.weight, vit["norm.weight"])
    assert "norm.weight" in {u.name for u in report.unused if u.source == "convnext"}


def test_downsamplers_arrive_under_their_published_names():
    """downsample_layers.1 and .2 hold the source's norms and convolutions."""
    conv, model = nano_convnext(), nano()
    stitch(model, convnext=conv, ropevit=nano_ropevit())
    for name in ("1.0.weight", "1.1.weight", "2.0.bias", "2.1.bias"):
        assert torch.equal(model.state_dict()[f"downsample_layers.{name}"], conv[f"downsample_layers.{name}"])


def test_what_stitching_loads_a_models_drop_rules_do_not_take_away():
    """Prefixes that a model drops from foreign checkpoints do not drop what a recipe claims."""

    class Dropping(mFormer):
        pretrained_ckpt_handling_metadata = {"drop_params": ["norm.", "downsample_layers.", "blocks."]}  # noqa: RUF012

    model = Dropping(NANO, heads={"species": 4})
    assert stitch(model, convnext=nano_convnext(), ropevit=nano_ropevit()).coverage == 1.0


def test_gray_models_get_the_sum_of_the_colour_channels():
    """The stem of a model for gray images sums the three input channels of its source."""
    conv, model = nano_convnext(), nano(in_chans=1)
    report = stitch(model, convnext=conv, ropevit=nano_ropevit())
    gray = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = convnext_map(conv, gray.expand(-1, 3, -1, -1), DEPTHS[:2], patch=1)
        torch.testing.assert_close(model.forward_conv(gray), expected, rtol=0, atol=1e-5)
    assert report.coverage == 1.0


def test_an_axial_source_of_another_base_is_refused():
    """Published axial weights turn by base 100: a model of another base refuses them."""
    model = nano(rope_mixed=False, rope_theta=10_000.0)
    before = state_of(model)
    with pytest.raises(IncompatibleWeightsError, match=r"base 10000.*base 100") as caught:
        stitch(model, convnext=nano_convnext(), ropevit=nano_ropevit(mixed=False))
    assert "ROPE_THETA" in str(caught.value)
    assert_untouched(model, before)


def test_an_axial_source_of_the_same_base_is_loaded():
    """With base 100 on both sides the model computes what the source does."""
    vit, model = nano_ropevit(mixed=False), nano(rope_mixed=False)
    stitch(model, convnext=nano_convnext(), ropevit=vit)
    patches = torch.randn(1, 96, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_tokens(patches), ropevit_features(vit, patches, 3, 3), rtol=0, atol=1e-5
        )


def test_learned_frequencies_are_not_put_into_an_axial_model():
    """A model that turns by constants refuses a source that learned its frequencies."""
    with pytest.raises(IncompatibleWeightsError, match="rotary frequencies"):
        stitch(nano(rope_mixed=False), convnext=nano_convnext(), ropevit=nano_ropevit())


def test_another_number_of_heads_is_refused_where_the_published_one_is_known():
    """Weights of the same width but for other heads have the same shapes; they are refused all the same."""
    shape = replace(VARIANTS["mFormer_sm"], depth=1, num_heads=12)
    model = mFormer(shape, heads={"species": 2})
    with pytest.raises(IncompatibleWeightsError, match="6 heads in the source, 12 in the model"):
        stitch(model, ropevit=ropevit(384, 1, 6), min_coverage=0.5)


def test_sources_that_do_not_meet_are_refused_naming_both_widths():
    """A ConvNeXt that ends wider than the RoPE-ViT is an error before anything is copied."""
    model = nano()
    before = state_of(model)
    with pytest.raises(IncompatibleWeightsError, match=r"convnext is 128 wide.*ropevit is 96 wide"):
        stitch(model, convnext=convnext((32, 64, 128, 256), DEPTHS, patch=1), ropevit=nano_ropevit())
    assert_untouched(model, before)


def test_each_source_must_cover_its_own_part():
    """A small part that did not arrive is an error, however large the share of the other part is."""
    torch.manual_seed(0)
    model = mFormer(VARIANTS["mFormer_sm"], heads={"species": 2})
    before = state_of(model)
    wrong = {f"other.{name}": tensor for name, tensor in convnext(*CONVNEXT["tiny"]).items()}
    with pytest.raises(IncompatibleWeightsError, match=r"0\.0% of .* from convnext\.pth"):
        stitch(model, convnext=wrong, ropevit=ropevit(*ROPEVIT["small"]))
    assert_untouched(model, before)


def test_the_error_leads_with_what_did_not_fit():
    """Below the coverage, shapes of both sides are in the details."""
    vit = {**nano_ropevit(), "blocks.0.mlp.fc1.weight": torch.zeros(10, 96)}
    with pytest.raises(IncompatibleWeightsError) as caught:
        stitch(nano(), convnext=nano_convnext(), ropevit=vit, min_coverage=0.999)
    assert caught.value.details[0] == ("blocks.0.mlp.fc1.weight: (192, 96) in the model, (10, 96) in ropevit")


def test_one_part_alone_fills_its_own_and_the_rest_stays():
    """With one source configured, coverage is of its part, and the other part is reported fresh."""
    model = nano()
    before = state_of(model)
    report = stitch(model, convnext=nano_convnext())
    assert report.coverage == 1.0
    assert {a.status for a in report.arrivals if a.name.startswith("blocks.")} == {"fresh"}
    assert torch.equal(model.cls_token, before["cls_token"])


def test_two_sources_never_fill_the_same_parameter():
    """A parameter claimed by two sources is an error that names both, and the model is untouched."""
    model = nano()
    before = state_of(model)
    rules = (packaged_rules("ropevit"),)
    sources = [
        Source(name=n, identifier=n, path=n, unwrapped=unwrap(nano_ropevit(seed=s), n), rules=rules)
        for n, s in (("one", 1), ("two", 2))
    ]
    with pytest.raises(IncompatibleWeightsError, match=r"claimed twice: by .* of one and by .* of two"):
        transfer(sources, model, min_coverage=0.0)
    assert_untouched(model, before)
