"""Checkpoints with the names and shapes of published ones, to stitch from."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Shapes = Iterator[tuple[str, tuple[int, ...]]]

CONVNEXTS = {"sm": ((96, 192, 384, 768), (3, 3, 9, 3)), "lg": ((192, 384, 768, 1536), (3, 3, 27, 3))}
ROPEVITS = {"sm": (384, 12), "lg": (768, 12)}


def convnext(size: str) -> dict[str, torch.Tensor]:
    """Return a ConvNeXt's state."""
    return _filled(_convnext(*CONVNEXTS[size]))


def ropevit(size: str) -> dict[str, torch.Tensor]:
    """Return a RoPE-ViT's state, mixed frequencies and LayerScale."""
    return _filled(_ropevit(*ROPEVITS[size]))


def _filled(shapes: Shapes) -> dict[str, torch.Tensor]:
    return {name: torch.full(shape, 0.01) for name, shape in shapes}


def _affine(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _convnext(dims: tuple[int, ...], depths: tuple[int, ...]) -> Shapes:
    yield from _affine("downsample_layers.0.0", dims[0], 3, 4, 4)
    yield from _affine("downsample_layers.0.1", dims[0])
    for i in range(1, 4):
        yield from _affine(f"downsample_layers.{i}.0", dims[i - 1])
        yield from _affine(f"downsample_layers.{i}.1", dims[i], dims[i - 1], 2, 2)
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for block in (f"stages.{i}.{j}" for j in range(depth)):
            yield f"{block}.gamma", (dim,)
            yield from _affine(f"{block}.dwconv", dim, 1, 7, 7)
            yield from _affine(f"{block}.norm", dim)
            yield from _affine(f"{block}.pwconv1", 4 * dim, dim)
            yield from _affine(f"{block}.pwconv2", dim, 4 * dim)
    yield from _affine("norm", dims[-1])
    yield from _affine("head", 1000, dims[-1])


def _ropevit(dim: int, depth: int) -> Shapes:
    yield "cls_token", (1, 1, dim)
    yield "freqs", (2, depth, dim // 2)
    yield from _affine("patch_embed.proj", dim, 3, 16, 16)
    for block in (f"blocks.{i}" for i in range(depth)):
        yield f"{block}.gamma_1", (dim,)
        yield f"{block}.gamma_2", (dim,)
        yield from _affine(f"{block}.norm1", dim)
        yield from _affine(f"{block}.attn.qkv", 3 * dim, dim)
        yield from _affine(f"{block}.attn.proj", dim, dim)
        yield from _affine(f"{block}.norm2", dim)
        yield from _affine(f"{block}.mlp.fc1", 4 * dim, dim)
        yield from _affine(f"{block}.mlp.fc2", dim, 4 * dim)
    yield from _affine("norm", dim)
    yield from _affine("head", 1000, dim)
