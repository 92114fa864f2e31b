import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from linnaeus.models._convnext import ChannelNorm, ConvNeXtBlock, downsampler, stem


def shake(module):
    """Give every parameter a random value, so that no term of a formula vanishes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def channel_norm(x, weight, bias):
    """Norm over channels, written out."""
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def test_a_block_computes_the_formula_of_the_paper():
    """A block is x + gamma * pw2(gelu(pw1(norm(dw7x7(x))))), recomputed here with 1x1 convolutions."""
    torch.manual_seed(0)
    block = shake(ConvNeXtBlock(8, gamma=1e-6)).double()
    x = torch.randn(2, 8, 9, 5, dtype=torch.float64)
    inner = F.conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=8)
    inner = channel_norm(inner, block.norm.weight, block.norm.bias)
    inner = F.conv2d(inner, block.pwconv1.weight[:, :, None, None], block.pwconv1.bias)
    inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    inner = F.conv2d(inner, block.pwconv2.weight[:, :, None, None], block.pwconv2.bias)
    expected = x + block.gamma[:, None, None] * inner
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)


def test_the_stem_cuts_patches_and_norms_their_channels():
    """The stem is a strided convolution, then a norm over channels."""
    torch.manual_seed(0)
    module = shake(stem(3, 6, patch=4))
    x = torch.randn(2, 3, 8, 12)
    patches = F.conv2d(x, module[0].weight, module[0].bias, stride=4)
    torch.testing.assert_close(
        module(x), channel_norm(patches, module[1].weight, module[1].bias), rtol=1e-5, atol=1e-5
    )


def test_a_downsampler_norms_first_and_halves_each_side():
    """A downsampler is a norm over channels, then a 2x2 convolution of stride 2."""
    torch.manual_seed(0)
    module = shake(downsampler(6, 10))
    x = torch.randn(2, 6, 4, 8)
    normed = channel_norm(x, module[0].weight, module[0].bias)
    torch.testing.assert_close(
        module(x), F.conv2d(normed, module[1].weight, module[1].bias, stride=2), rtol=1e-4, atol=1e-4
    )
    assert module(x).shape == (2, 10, 2, 4)


@pytest.mark.parametrize("gamma", [1e-6, 0.1])
def test_the_residual_scale_starts_where_it_is_told(gamma):
    """Gamma has one value per channel, all the same at first."""
    torch.testing.assert_close(ConvNeXtBlock(5, gamma=gamma).gamma.detach(), torch.full((5,), gamma))


def test_channel_norm_keeps_its_dtype():
    """The norm gives back what dtype it was given."""
    norm = ChannelNorm(4).bfloat16()
    assert norm(torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)).dtype is torch.bfloat16
