import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from linnaeus.pretrained._adapters import (
    axial_frequencies,
    channels,
    folded,
    rotary_base,
    sliced,
    unit_scale,
)
from linnaeus.pretrained._weights import weight_of


def test_folding_a_scale_keeps_the_function():
    """Scaling the output of a linear map equals the map with folded weight and bias."""
    torch.manual_seed(0)
    weight, bias, gamma, x = torch.randn(5, 3), torch.randn(5), torch.randn(5), torch.randn(7, 3)
    expected = gamma * F.linear(x, weight, bias)
    scale = weight_of("g", gamma)
    new_weight, new_bias = (folded(weight_of("w", tensor), scale).read() for tensor in (weight, bias))
    torch.testing.assert_close(F.linear(x, new_weight, new_bias), expected, rtol=0, atol=1e-6)


def test_folding_half_precision_is_computed_in_single():
    """Two half precision tensors are multiplied in float32, without a second rounding."""
    weight, gamma = torch.full((1, 1), 0.1).half(), torch.full((1,), 0.1).half()
    made = folded(weight_of("w", weight), weight_of("g", gamma))
    assert made.dtype is made.read().dtype is torch.float32
    assert made.read().item() == weight.item() * gamma.item()


def test_a_block_gets_its_own_slice_of_the_frequencies():
    """Block i gets freqs[:, i], viewed as (2, heads, head_dim / 2)."""
    freqs = torch.arange(2.0 * 3 * 8).reshape(2, 3, 8)
    made = sliced(weight_of("freqs", freqs), dim=1, index=2, shape=(2, 2, 4)).read()
    for axis in range(2):
        for head in range(2):
            for pair in range(4):
                assert made[axis, head, pair] == axis * 24 + 2 * 8 + head * 4 + pair


def test_summed_channels_keep_the_function_on_gray_images():
    """A convolution of a gray image equals the one of the same image in three channels."""
    torch.manual_seed(0)
    weight, gray = torch.randn(4, 3, 2, 2), torch.randn(2, 1, 6, 6)
    made = channels(weight_of("w", weight), 1)
    expected = F.conv2d(gray.expand(-1, 3, -1, -1), weight, stride=2)
    assert made.shape == made.read().shape == (4, 1, 2, 2)
    torch.testing.assert_close(F.conv2d(gray, made.read(), stride=2), expected, rtol=0, atol=1e-5)


def test_a_unit_scale_changes_nothing():
    """A model that scales gets ones for what its source does not scale."""
    assert torch.equal(unit_scale((3,)).read(), torch.ones(3))


@pytest.mark.parametrize("theta", [10.0, 100.0, 10_000.0])
def test_the_base_of_axial_frequencies_is_found_again(theta):
    """Frequencies of a base tell that base; learned ones tell none."""
    assert rotary_base(axial_frequencies((2, 3, 16), theta=theta)) == pytest.approx(theta, rel=0.01)


def test_learned_frequencies_have_no_base():
    """Frequencies that are no powers of a base are not taken for such."""
    torch.manual_seed(0)
    assert rotary_base(torch.rand(2, 3, 16)) is None


def test_axial_frequencies_follow_the_formula():
    """Pair k turns by theta ** (-4k / head_dim) along x, and the second half the same along y."""
    freqs = axial_frequencies((2, 1, 8), theta=100.0)
    powers = [100.0 ** (-4 * k / 16) for k in range(4)]
    assert freqs[0, 0].tolist() == pytest.approx([*powers, 0, 0, 0, 0])
    assert freqs[1, 0].tolist() == pytest.approx([0, 0, 0, 0, *powers])
