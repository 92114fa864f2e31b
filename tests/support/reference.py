"""The two parts of mFormer as plain formulas over published state dicts, to compare the model with."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor

State = dict[str, Tensor]


def convnext_map(state: State, images: Tensor, depths: tuple[int, int], *, patch: int = 4) -> Tensor:
    """Return a ConvNeXt's map after its third downsampler (Liu et al. 2022)."""
    stem = "downsample_layers.0"
    x = F.conv2d(images, state[f"{stem}.0.weight"], state[f"{stem}.0.bias"], stride=patch)
    x = _channel_norm(state, f"{stem}.1", x)
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = x + _convnext_branch(state, f"stages.{i}.{j}", x)
        x = _channel_norm(state, f"downsample_layers.{i + 1}.0", x)
        name = f"downsample_layers.{i + 1}.1"
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
    return x


def ropevit_features(
    state: State, patches: Tensor, depth: int, heads: int, *, theta: float = 100.0
) -> Tensor:
    """Return a RoPE-ViT's normed class token over given patch tokens (B, C, h, w) (Heo et al. 2024).

    Frequencies are the state's, or axial ones of base `theta` where it has none.
    """
    batch, dim, height, width = patches.shape
    x = torch.cat([state["cls_token"].expand(batch, 1, dim), patches.flatten(2).transpose(1, 2)], dim=1)
    one = torch.ones(dim, dtype=patches.dtype)
    for i in range(depth):
        name = f"blocks.{i}"
        turn = _turn(_freqs(state, i, heads, dim // heads, theta), height, width)
        branch = _attention(state, f"{name}.attn", _norm(state, f"{name}.norm1", x), heads, turn)
        x = x + state.get(f"{name}.gamma_1", one) * branch
        hidden = F.gelu(_linear(state, f"{name}.mlp.fc1", _norm(state, f"{name}.norm2", x)))
        x = x + state.get(f"{name}.gamma_2", one) * _linear(state, f"{name}.mlp.fc2", hidden)
    return _norm(state, "norm", x)[:, 0]


def _channel_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return normed * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def _convnext_branch(state: State, name: str, x: Tensor) -> Tensor:
    x = F.conv2d(
        x, state[f"{name}.dwconv.weight"], state[f"{name}.dwconv.bias"], padding=3, groups=x.shape[1]
    )
    x = _channel_norm(state, f"{name}.norm", x)
    x = F.conv2d(x, state[f"{name}.pwconv1.weight"][:, :, None, None], state[f"{name}.pwconv1.bias"])
    x = F.conv2d(F.gelu(x), state[f"{name}.pwconv2.weight"][:, :, None, None], state[f"{name}.pwconv2.bias"])
    return state[f"{name}.gamma"][:, None, None] * x


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return normed * state[f"{name}.weight"] + state[f"{name}.bias"]


def _freqs(state: State, block: int, heads: int, head_dim: int, theta: float) -> Tensor:
    """Return (2, heads, head_dim / 2)."""
    if "freqs" in state:
        return state["freqs"][:, block].view(2, heads, head_dim // 2)
    powers = torch.tensor([theta ** (-4 * k / head_dim) for k in range(head_dim // 4)])
    freqs = torch.zeros(2, heads, head_dim // 2)
    freqs[0, :, : head_dim // 4] = freqs[1, :, head_dim // 4 :] = powers
    return freqs


def _turn(freqs: Tensor, height: int, width: int) -> Tensor:
    """Return the unit complex numbers (heads, N, head_dim / 2) that tokens are turned by."""
    places = [(n % width, n // width) for n in range(height * width)]
    angles = torch.stack([x * freqs[0] + y * freqs[1] for x, y in places], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def _attention(state: State, name: str, x: Tensor, heads: int, turn: Tensor) -> Tensor:
    batch, num_tokens, dim = x.shape
    q, k, v = _linear(state, f"{name}.qkv", x).reshape(batch, num_tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k = (torch.cat([t[:, :, :1], _turned(t[:, :, 1:], turn)], dim=2) for t in (q, k))
    scores = torch.softmax(q @ k.transpose(-1, -2) / (dim // heads) ** 0.5, dim=-1)
    return _linear(state, f"{name}.proj", (scores @ v).transpose(1, 2).reshape(batch, num_tokens, dim))


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)
