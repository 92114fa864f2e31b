"""Pretrained weights into models that are spread over ranks already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from linnaeus import pth
from support.published import convnext, ropevit
from support.torchrun import on_ranks

pytestmark = pytest.mark.slow


def test_a_sharded_model_gets_what_a_whole_one_gets(tmp_path: Path) -> None:
    """Stitched from two files, LayerScale folded, a head by class name: two ranks under FSDP2."""
    conv = {"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1)}
    vit: dict[str, Any] = {"model": ropevit(96, 3, 3, mlp_ratio=2, num_classes=5, layer_scale=True)}
    torch.save(conv, tmp_path / "conv.pth")
    torch.save(vit, tmp_path / "vit.pth")
    head = {"FROM": "head", "CLASSES": list("axcye"), "SOURCE_CLASSES": list("edcba")}
    model = {"NAME": "mFormer_nano", "HEADS": {"species": 5}, "PRETRAINED_HEADS": {"species": head}}
    model |= {
        "PRETRAINED_CONVNEXT": str(tmp_path / "conv.pth"),
        "PRETRAINED_ROPEVIT": str(tmp_path / "vit.pth"),
    }
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump({"MODEL": model}))
    on_ranks(2, tmp_path, "loads_pretrained")


def test_every_placement_is_filled(tmp_path: Path) -> None:
    """Rows, columns, meshes of two dimensions, uneven and empty shards; other dtypes and strides."""
    state = {"tall": torch.randn(4001, 60), "few": torch.randn(3, 5), "wide": torch.randn(2, 40_000)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pth")
    pth.save({name: tensor.t() for name, tensor in state.items()}, tmp_path / "turned.pth")
    on_ranks(4, tmp_path, "loads_into_every_placement")


def test_the_sharded_trainer_starts_from_pretrained_weights(tmp_path: Path) -> None:
    """TRAIN.PARALLEL: fsdp and MODEL.PRETRAINED together: the run begins with the weights, and says so."""
    on_ranks(2, tmp_path, "trains:fsdp:1")
    first = next((tmp_path / "run").glob("checkpoint_epoch_1*.pth")).rename(tmp_path / "first.pth")
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    on_ranks(2, tmp_path, f"trains:fsdp:1:MODEL.PRETRAINED={first}")
    kept = json.loads((tmp_path / "run" / "load_report.json").read_text())
    assert (kept["coverage"], kept["counts"]["fresh"]) == (1.0, 0)
