"""Checkpoints laid out as the authors of ConvNeXt and RoPE-ViT publish them, with random values.

On the meta device, `with torch.device("meta")`, they have shapes only.

Names and shapes follow the architectures in the papers and what the authors' code calls its parameters:
`downsample_layers.i.j`, `stages.i.j.dwconv`, ... and `blocks.i.attn.qkv`,
`freqs (2, depth, heads * head_dim / 2)`, ...
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]

CONVNEXT = {
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "small": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "large": ((192, 384, 768, 1536), (3, 3, 27, 3)),
    "xlarge": ((256, 512, 1024, 2048), (3, 3, 27, 3)),
}
ROPEVIT = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def convnext(
    dims: tuple[int, ...], depths: tuple[int, ...], *, num_classes: int = 1000, patch: int = 4, seed: int = 0
) -> State:
    """Return the parameters of a ConvNeXt by their published names."""
    make = torch.Generator("cpu").manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"downsample_layers.0.0.weight": (dims[0], 3, patch, patch)}
    shapes |= {"downsample_layers.0.0.bias": (dims[0],), **_norm("downsample_layers.0.1", dims[0])}
    for i in range(1, 4):
        shapes |= _norm(f"downsample_layers.{i}.0", dims[i - 1])
        shapes[f"downsample_layers.{i}.1.weight"] = (dims[i], dims[i - 1], 2, 2)
        shapes[f"downsample_layers.{i}.1.bias"] = (dims[i],)
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for j in range(depth):
            shapes |= _convnext_block(f"stages.{i}.{j}", dim)
    shapes |= {**_norm("norm", dims[-1]), **_linear("head", dims[-1], num_classes)}
    return _random(shapes, make)


def ropevit(
    dim: int,
    depth: int,
    heads: int,
    *,
    mixed: bool = True,
    layer_scale: bool = True,
    mlp_ratio: int = 4,
    num_classes: int = 1000,
    seed: int = 1,
) -> State:
    """Return the state of a RoPE-ViT with patches of 16 for 224 pixels, by its published names."""
    make = torch.Generator("cpu").manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim)}
    if mixed:
        shapes["freqs"] = (2, depth, dim // 2)
    shapes |= {"patch_embed.proj.weight": (dim, 3, 16, 16), "patch_embed.proj.bias": (dim,)}
    for i in range(depth):
        shapes |= _vit_block(f"blocks.{i}", dim, mlp_ratio * dim, layer_scale=layer_scale)
    shapes |= {**_norm("norm", dim), **_linear("head", dim, num_classes)}
    state = _random(shapes, make)
    if mixed:
        places = torch.arange(14 * 14, dtype=torch.float32)
        state |= {"freqs_t_x": places % 14, "freqs_t_y": torch.div(places, 14, rounding_mode="floor")}
    return state


def _norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _linear(name: str, dim: int, dim_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim_out, dim), f"{name}.bias": (dim_out,)}


def _convnext_block(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gamma": (dim,),
        f"{name}.dwconv.weight": (dim, 1, 7, 7),
        f"{name}.dwconv.bias": (dim,),
        **_norm(f"{name}.norm", dim),
        **_linear(f"{name}.pwconv1", dim, 4 * dim),
        **_linear(f"{name}.pwconv2", 4 * dim, dim),
    }


def _vit_block(name: str, dim: int, hidden: int, *, layer_scale: bool) -> dict[str, tuple[int, ...]]:
    scales = {f"{name}.gamma_1": (dim,), f"{name}.gamma_2": (dim,)} if layer_scale else {}
    return {
        **scales,
        **_norm(f"{name}.norm1", dim),
        **_linear(f"{name}.attn.qkv", dim, 3 * dim),
        **_linear(f"{name}.attn.proj", dim, dim),
        **_norm(f"{name}.norm2", dim),
        **_linear(f"{name}.mlp.fc1", dim, hidden),
        **_linear(f"{name}.mlp.fc2", hidden, dim),
    }


def _random(shapes: dict[str, tuple[int, ...]], make: torch.Generator) -> State:
    if torch.get_default_device().type == "meta":  # shapes are all that is asked for
        return {name: torch.empty(shape) for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=make) * 0.1 for name, shape in shapes.items()}
