import math

import pytest
import torch

from linnaeus.models._rope import axial_frequencies, mixed_frequencies, rotate, rotation
from linnaeus.models._vit import Attention, RoPEBlock


def complex_rotation(x, freqs, height, width):
    """Turn x (B, heads, N, head_dim) by the paper's formula, as a product of complex numbers."""
    out = torch.empty_like(x)
    for n in range(height * width):
        row, column = divmod(n, width)
        angle = column * freqs[0] + row * freqs[1]
        z = torch.view_as_complex(x[:, :, n].reshape(*x.shape[:2], -1, 2)) * torch.polar(
            torch.ones_like(angle), angle
        )
        out[:, :, n] = torch.view_as_real(z).flatten(-2)
    return out


def test_turning_pairs_is_multiplying_complex_numbers():
    """Pairs turn by x * fx + y * fy, x the column and y the row, also where the grid is no square."""
    torch.manual_seed(0)
    freqs = torch.randn(2, 3, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 15, 8, dtype=torch.float64)
    expected = complex_rotation(x, freqs, 3, 5)
    torch.testing.assert_close(rotate(x, *rotation(freqs, 3, 5)), expected, rtol=0, atol=1e-12)


def test_scores_depend_on_the_distance_of_two_tokens_only():
    """Shifting both tokens by the same rows and columns leaves the product of query and key alone."""
    torch.manual_seed(0)
    freqs = mixed_frequencies(8, 2, theta=10.0).double()
    q, k = torch.randn(2, 1, 2, 1, 8, dtype=torch.float64).expand(-1, -1, -1, 36, -1)
    turned_q, turned_k = (rotate(t, *rotation(freqs, 6, 6)) for t in (q, k))
    scores = turned_q @ turned_k.transpose(-1, -2)
    torch.testing.assert_close(scores[:, :, 0, 8], scores[:, :, 14, 22], rtol=0, atol=1e-12)


@pytest.mark.parametrize("theta", [10.0, 100.0, 10_000.0])
def test_axial_frequencies_are_powers_of_the_base(theta):
    """The first half of the pairs turns with the column alone, the second half with the row alone."""
    freqs = axial_frequencies(16, 2, theta=theta)
    powers = [theta ** (-4 * k / 16) for k in range(4)]
    for head in range(2):
        assert freqs[0, head].tolist() == pytest.approx([*powers, 0, 0, 0, 0])
        assert freqs[1, head].tolist() == pytest.approx([0, 0, 0, 0, *powers])


def test_mixed_frequencies_start_as_axial_ones_turned_by_an_angle_per_head():
    """Every pair keeps its speed, and the directions of the two halves stand at right angles."""
    torch.manual_seed(0)
    fx, fy = mixed_frequencies(16, 5, theta=10.0)
    speed = [10.0 ** (-4 * k / 16) for k in range(4)]
    for head in range(5):
        assert torch.hypot(fx, fy)[head].tolist() == pytest.approx(speed * 2, rel=1e-5)
    dots = fx[:, :4] * fx[:, 4:] + fy[:, :4] * fy[:, 4:]
    assert dots.abs().max() < 1e-6
    assert (
        len({round(math.atan2(y, x), 4) for x, y in zip(fx[:, 0].tolist(), fy[:, 0].tolist(), strict=True)})
        == 5
    )


def test_half_precision_angles_are_computed_in_single():
    """With bfloat16 frequencies the 300th column is not the 299th."""
    cos, _ = rotation(torch.ones(2, 1, 2, dtype=torch.bfloat16), 1, 301)
    assert cos.dtype is torch.float32
    assert cos[0, 300, 0].item() == pytest.approx(math.cos(300), abs=1e-4)


def plain_attention(attention, x, freqs, grid):
    """Softmax attention written out head by head, the class token not turned."""
    batch, num_tokens, dim = x.shape
    heads, size = attention.num_heads, dim // attention.num_heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    parts = [x @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim] for i in range(3)]
    q, k, v = (part.reshape(batch, num_tokens, heads, size).transpose(1, 2) for part in parts)
    q, k = (torch.cat([t[:, :, :1], complex_rotation(t[:, :, 1:], freqs, *grid)], 2) for t in (q, k))
    scores = torch.softmax(q @ k.transpose(-1, -2) / size**0.5, dim=-1)
    mixed = (scores @ v).transpose(1, 2).reshape(batch, num_tokens, dim)
    return mixed @ attention.proj.weight.T + attention.proj.bias


def test_attention_turns_patch_tokens_and_not_the_class_token():
    """Attention equals softmax(q k / sqrt(d)) v with queries and keys of patches turned."""
    torch.manual_seed(0)
    attention = Attention(16, 2).double()
    freqs = torch.randn(2, 2, 4, dtype=torch.float64)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    expected = plain_attention(attention, x, freqs, (2, 3))
    torch.testing.assert_close(attention(x, *rotation(freqs, 2, 3)), expected, rtol=0, atol=1e-12)


def layer_norm(x, norm):
    """Norm over the last dimension, written out."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("layer_scale", [None, 0.3])
@pytest.mark.parametrize("mixed", [True, False])
def test_a_block_computes_the_formula_of_the_paper(layer_scale, mixed):
    """A block is x + g1 attention(norm1 x), then x + g2 mlp(norm2 x), with and without LayerScale."""
    torch.manual_seed(0)
    block = RoPEBlock(16, 2, mlp_ratio=4, layer_scale=layer_scale, mixed=mixed, theta=10.0).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    g1, g2 = (1, 1) if layer_scale is None else (block.gamma_1, block.gamma_2)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    expected = x + g1 * plain_attention(block.attn, layer_norm(x, block.norm1), block.freqs, (2, 3))
    hidden = layer_norm(expected, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    expected = expected + g2 * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x, (2, 3)), expected, rtol=0, atol=1e-10)


def test_axial_frequencies_are_kept_in_the_state_but_not_trained():
    """A checkpoint of an axial block says by which angles it turns."""
    block = RoPEBlock(16, 2, mlp_ratio=2, layer_scale=None, mixed=False, theta=100.0)
    assert "freqs" in block.state_dict()
    assert "freqs" not in dict(block.named_parameters())
