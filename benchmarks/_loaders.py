"""The ways to get from a file to a model, by name, so that a child process can be told which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import linnaeus
from benchmarks._states import WIDTHS, ConvNeXt, Training
from linnaeus.pth import mapped_file
from linnaeus.state import RunParts, restore


def built_by_torch(path: Path, size: str) -> nn.Module:
    """Build with random weights, read the checkpoint, copy."""
    model = ConvNeXt(WIDTHS[size])
    model.load_state_dict(torch.load(path)["model"])
    return model


def built_by_linnaeus(path: Path, size: str) -> nn.Module:
    """Build without weights, map the checkpoint, assign."""
    with torch.device("meta"):
        model = ConvNeXt(WIDTHS[size])
    model.load_state_dict(linnaeus.load(path)["model"], assign=True)
    return model


def built_by_safetensors(path: Path, size: str) -> nn.Module:
    """Build without weights, and assign those of the file of weights that lies beside the checkpoint."""
    with torch.device("meta"):
        model = ConvNeXt(WIDTHS[size])
    model.load_state_dict(load_file(path.with_suffix(".safetensors")), assign=True)
    return model


def read_once(model: nn.Module) -> nn.Module:
    """Read every weight, as the first forward pass does."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return model


INFERENCE: dict[str, Callable[[Path, str], nn.Module]] = {
    "build + torch.load + load_state_dict": built_by_torch,
    "linnaeus, mapped and assigned": built_by_linnaeus,
    "safetensors, weights alone, assigned": built_by_safetensors,
    "torch, every weight read once": lambda path, size: read_once(built_by_torch(path, size)),
    "linnaeus, every weight read once": lambda path, size: read_once(built_by_linnaeus(path, size)),
}


def filled_by_linnaeus(path: Path, run: Training) -> None:
    """Do what `CheckpointManager.resume` does once it has chosen a checkpoint."""
    parts = RunParts(model=run.model, optimizer=run.optimizer)
    with mapped_file(path) as source:
        restore(parts, source.content, str(path), complete=False, source=source)


FILLING: dict[str, Callable[[Path, Training], None]] = {
    "torch.load + load_state_dict": lambda path, run: run.load(torch.load(path)),
    "linnaeus, as a run resumes": filled_by_linnaeus,
    "linnaeus.load + load_state_dict": lambda path, run: run.load(linnaeus.load(path, mmap=False)),
}
