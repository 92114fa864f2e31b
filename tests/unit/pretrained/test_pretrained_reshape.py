"""Weights whose names fit and whose shapes do not: what is adapted gives what the source gave."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import nn

from linnaeus.errors import IncompatibleWeightsError
from linnaeus.pretrained._fit import Source
from linnaeus.pretrained._transfer import transfer
from linnaeus.pretrained._unwrap import unwrap
from support.vits import ViT, WindowAttention, bicubic


def load(state, model, *, min_coverage=0.9):
    """Load one state dict into a model."""
    unwrapped = unwrap({"model": state}, "x.pth")
    source = Source(name="pretrained", identifier="x.pth", path="x.pth", unwrapped=unwrapped)
    return transfer([source], model, min_coverage=min_coverage)


def status(report, name):
    """Return what became of one tensor."""
    return next(a for a in report.arrivals if a.name == name)


@pytest.mark.parametrize(
    ("source", "target"), [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((6, 6), (4, 8)), ((4, 4), (5, 5))]
)
def test_positions_are_resampled_as_the_definition_says(source, target):
    """A position table on another grid equals antialiased bicubic resampling computed by its definition."""
    torch.manual_seed(0)
    theirs, ours = (ViT((2 * h, 2 * w)) for h, w in (source, target))
    table = theirs.pos_embed.detach().clone()
    report = load(theirs.state_dict(), ours)
    expected = bicubic(table[0, 1:], source, target)
    torch.testing.assert_close(ours.pos_embed[0, 1:].detach().double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(ours.pos_embed[0, :1], table[0, :1])
    assert "resampled from" in status(report, "pos_embed").note


@pytest.mark.parametrize("embedded", ["all", "class", "none"])
@pytest.mark.parametrize("registers", [0, 4])
def test_tokens_before_the_patches_are_found_from_the_model(registers, embedded):
    """Class and register tokens keep their own positions, whichever of them have one."""
    torch.manual_seed(0)
    others = {"all": 1 + registers, "class": 1, "none": 0}[embedded]
    theirs, ours = (ViT(size, registers=registers, embedded=embedded) for size in ((8, 8), (12, 16)))
    table = theirs.pos_embed.detach().clone()[0]
    load(theirs.state_dict(), ours)
    assert torch.equal(ours.pos_embed[0, :others], table[:others])
    expected = bicubic(table[others:], (4, 4), (6, 8))
    torch.testing.assert_close(ours.pos_embed[0, others:].detach().double(), expected, rtol=0, atol=1e-5)


def test_a_length_that_could_be_two_grids_is_not_guessed():
    """25 positions are 5 x 5 patches, or 24 and a class token: the model's grid decides."""
    torch.manual_seed(0)
    theirs, ours = ViT((10, 10), embedded="none"), ViT((14, 14), embedded="none")
    table = theirs.pos_embed.detach().clone()[0]
    load(theirs.state_dict(), ours)
    torch.testing.assert_close(
        ours.pos_embed[0].detach().double(), bicubic(table, (5, 5), (7, 7)), rtol=0, atol=1e-5
    )


def test_positions_for_other_tokens_are_refused_with_the_reason():
    """A source without registers has no positions for a model that embeds them."""
    report = load(ViT((8, 8)).state_dict(), ViT((12, 12), registers=4), min_coverage=0.0)
    (mismatch,) = report.mismatches
    assert "positions for 5 tokens before its patches, the source for 1" in mismatch.line()


@pytest.mark.parametrize(("source", "target"), [((7, 7), (12, 12)), ((4, 4), (3, 5))])
def test_tables_of_relative_positions_are_resampled(source, target):
    """A bias table of another window equals bicubic resampling of its (2h - 1, 2w - 1) distances."""
    torch.manual_seed(0)
    theirs, ours = WindowAttention(source), WindowAttention(target)
    table, index = theirs.relative_position_bias_table.detach().clone(), ours.relative_position_index.clone()
    report = load(theirs.state_dict(), ours)
    grids = [tuple(2 * n - 1 for n in window) for window in (source, target)]
    expected = bicubic(table, *grids)
    torch.testing.assert_close(
        ours.relative_position_bias_table.detach().double(), expected, rtol=0, atol=1e-5
    )
    assert torch.equal(ours.relative_position_index, index)
    assert "own grid" in status(report, "relative_position_index").note


def test_the_row_of_the_class_token_stays():
    """A table with a row for the class token at its end keeps that row as it is."""
    torch.manual_seed(0)
    theirs, ours = WindowAttention((3, 3), num_others=1), WindowAttention((5, 5), num_others=1)
    table = theirs.relative_position_bias_table.detach().clone()
    load(theirs.state_dict(), ours)
    torch.testing.assert_close(
        ours.relative_position_bias_table[:-1].detach().double(),
        bicubic(table[:-1], (5, 5), (9, 9)),
        rtol=0,
        atol=1e-5,
    )
    assert torch.equal(ours.relative_position_bias_table[-1], table[-1])


def test_metaformers_class_token_keeps_the_bias_that_it_shares_with_a_corner():
    """Where the class token uses the first row, which is also that of a corner, that row stays."""
    torch.manual_seed(0)
    theirs, ours = (WindowAttention(w, num_others=1, first_row=True) for w in ((3, 3), (4, 4)))
    table = theirs.relative_position_bias_table.detach().clone()
    load(theirs.state_dict(), ours)
    made = ours.relative_position_bias_table.detach()
    assert torch.equal(made[0], table[0])
    assert torch.equal(made[-1], table[-1])
    torch.testing.assert_close(
        made[1:-1].double(), bicubic(table[:-1], (5, 5), (7, 7))[1:], rtol=0, atol=1e-5
    )


def test_a_table_that_is_no_square_needs_an_index_to_tell_its_window():
    """Without the model's index, rows that are no square grid of distances are refused."""
    model = nn.Module()
    model.attn = nn.Module()
    model.attn.relative_position_bias_table = nn.Parameter(torch.ones(21, 2))
    report = load({"attn.relative_position_bias_table": torch.ones(9, 2)}, model, min_coverage=0.0)
    assert "21 rows are no square grid" in report.mismatches[0].line()


@pytest.mark.parametrize("num_channels", [4, 6])
def test_further_input_channels_begin_with_nothing(num_channels):
    """A stem for more channels gives on the first three what the source gave, whatever is in the others."""
    torch.manual_seed(0)
    theirs, ours = ViT(), ViT(in_chans=num_channels)
    load(theirs.state_dict(), ours)
    images = torch.randn(2, num_channels, 8, 8)
    expected = theirs.patch_embed(images[:, :3])
    torch.testing.assert_close(ours.patch_embed(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3), (1, 5)])
def test_gray_images_give_the_same_in_any_number_of_channels(given, wanted):
    """From three channels to one the stem is summed, from one to several it is divided among them."""
    torch.manual_seed(0)
    theirs, ours = ViT(in_chans=given), ViT(in_chans=wanted)
    load(theirs.state_dict(), ours)
    gray = torch.randn(2, 1, 8, 8)
    one, other = (m.patch_embed(gray.expand(-1, n, -1, -1)) for m, n in ((theirs, given), (ours, wanted)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("patch", [4, 6])
def test_larger_patches_give_the_same_for_enlarged_images(patch):
    """A patch embedding for larger patches gives on an image enlarged patch by patch what the source gave."""
    torch.manual_seed(0)
    theirs, ours = ViT((8, 8), patch=2), ViT((4 * patch, 4 * patch), patch=patch)
    load(theirs.state_dict(), ours)
    patches = torch.randn(3, 3, 2, 2)
    large = F.interpolate(patches, size=(patch, patch), mode="bilinear", align_corners=False)
    one, other = theirs.patch_embed.proj(patches), ours.patch_embed.proj(large)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_kernel_that_overlaps_is_not_resized():
    """A convolution that does not cut into patches has no other size that would compute the same."""
    theirs, ours = nn.Module(), nn.Module()
    theirs.stem, ours.stem = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 7, padding=3)
    report = load(theirs.state_dict(), ours, min_coverage=0.0)
    assert "only where it cuts the image into square patches" in report.mismatches[0].line()


def test_inner_convolutions_are_never_brought_to_other_channels():
    """Only images have channels that can be summed or left out."""
    theirs, ours = nn.Module(), nn.Module()
    theirs.inner, ours.inner = nn.Conv2d(8, 4, 3), nn.Conv2d(16, 4, 3)
    report = load(theirs.state_dict(), ours, min_coverage=0.0)
    assert [m.name for m in report.mismatches] == ["inner.weight"]


def test_the_places_of_tokens_are_those_of_the_models_own_grid():
    """Buffers with the columns and rows of tokens stay the model's when the source was of another size."""
    model = nn.Module()
    model.inner = nn.Linear(2, 2)
    places = torch.arange(576.0) % 24
    model.register_buffer("freqs_t_x", places.clone())
    state = {**nn.Linear(2, 2).state_dict(prefix="inner."), "freqs_t_x": torch.arange(196.0) % 14}
    report = load(state, model)
    assert torch.equal(model.freqs_t_x, places)
    assert status(report, "freqs_t_x").status == "adapted"


def convolution_with_norm():
    """Build a convolution and its batch norm, both with values of their own."""
    model = nn.Module()
    model.conv, model.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    model.head = nn.Linear(4, 2)
    return model


def test_folding_batch_norm_is_refused_with_the_reason():
    """A model without the batch norm that follows a loaded convolution would compute something else."""
    model = nn.Module()
    model.conv, model.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)
    before = model.conv.weight.clone()
    with pytest.raises(IncompatibleWeightsError, match=r"bn is a batch norm .* conv\.weight.*epsilon"):
        load(convolution_with_norm().state_dict(), model, min_coverage=0.0)
    assert torch.equal(model.conv.weight, before)


def test_a_batch_norm_that_is_there_is_loaded():
    """Where the model has the batch norm, nothing is refused."""
    report = load(convolution_with_norm().state_dict(), convolution_with_norm())
    assert report.coverage == 1.0


def test_batch_norms_of_a_part_that_is_not_used_do_not_matter():
    """A source's later layers may go unused together with their norms."""
    model = nn.Module()
    model.first = nn.Conv2d(3, 2, 3)
    source = convolution_with_norm()
    source.first = nn.Conv2d(3, 2, 3)
    assert load(source.state_dict(), model).coverage == 1.0
