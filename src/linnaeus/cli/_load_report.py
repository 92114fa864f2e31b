"""`linnaeus load-report FILE`: what of a checkpoint would arrive in a model, without training."""

from __future__ import annotations

from pathlib import Path

import click

from linnaeus.cli._options import Call, command
from linnaeus.cli._stitch import shown

_EXAMPLE = """
linnaeus load-report run.pth --model configs/quickstart.yaml
linnaeus load-report --config configs/mFormer_sm.yaml
linnaeus load-report --json convnext_tiny_22k_1k_384.pth --model exp.yaml
"""


@command(
    "load-report",
    summary="Show what of the checkpoint FILE would arrive in a model.\n\n"
    "By module and by number of parameters: loaded, adapted, fresh; what of FILE is left, and why. Nothing is"
    " trained, no tensor is read. FILE is a path, or a name as for resolve; without it, the report is about"
    " what the config names. The exit code is 1 when the load would be refused.",
    example=_EXAMPLE,
)
@click.argument("file", metavar="FILE", required=False)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="CONFIG",
    help="The config whose MODEL it is about; default: that of --config.",
)
def load_report(call: Call, *, file: str | None, model: Path | None) -> int:
    """Rehearse a load and show its report."""
    import torch

    from linnaeus.config import load_config
    from linnaeus.models import build_model
    from linnaeus.pretrained import preview

    cfg = call.cfg if model is None else load_config(model, ())
    with torch.device("meta"):
        built = build_model(cfg)
    named = str(Path(file).absolute()) if file and Path(file).exists() else file
    return shown(call, preview(cfg, built, checkpoint=named))
