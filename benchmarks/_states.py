"""What is saved and loaded: a ConvNeXt with its AdamW state, in several sizes, and many small tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_DEPTHS = (3, 3, 9, 3)
_NUM_CLASSES = 1000

# The width of the first stage by the size of the whole state; 96 is ConvNeXt-tiny, 28.6 million parameters.
WIDTHS = {"10 MB": 15, "343 MB": 96, "3.6 GB": 312}


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))


class ConvNeXt(nn.Module):
    """The parameters of ConvNeXt (Liu et al. 2022), in torch's own initialisation; it computes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        dims = [width << stage for stage in range(len(_DEPTHS))]
        self.stem = nn.Sequential(nn.Conv2d(3, width, kernel_size=4, stride=4), nn.LayerNorm(width))
        self.downsamplers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Conv2d(dim, 2 * dim, kernel_size=2, stride=2))
            for dim in dims[:-1]
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(dim) for _ in range(depth)))
            for depth, dim in zip(_DEPTHS, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], _NUM_CLASSES if width >= WIDTHS["343 MB"] else 10)


@dataclass(frozen=True, slots=True)
class Training:
    """A model and its optimizer in the middle of a run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds; its tensors are those of the run."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": 7,
            "step": 1000,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put a state into model and optimizer, in torch's way."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def touch(self) -> None:
        """Change every tensor in place, as an optimizer's step does."""
        for tensor in named_tensors(self.state()).values():
            tensor.mul_(0.999)


def training(size: str, device: str = "cpu") -> Training:
    """Return a run whose state has one of the sizes in `WIDTHS`."""
    model = ConvNeXt(WIDTHS[size]).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(1000.0),
            "exp_avg": torch.rand_like(parameter.detach()),
            "exp_avg_sq": torch.rand_like(parameter.detach()),
        }
    return Training(model, optimizer)


def many_small(count: int) -> dict[str, Tensor]:
    """Return a state dict of `count` tensors of 8 to 64 elements."""
    shapes = ((8,), (4, 4), (32,), (8, 8))
    return {f"blocks.{n // 4}.layer.{n % 4}.weight": torch.rand(shapes[n % 4]) for n in range(count)}


def named_tensors(node: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return every tensor of nested dicts and lists by its dotted name."""
    if isinstance(node, Tensor):
        return {prefix: node}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found: dict[str, Tensor] = {}
    for key, item in items:
        found |= named_tensors(item, f"{prefix}.{key}" if prefix else str(key))
    return found
