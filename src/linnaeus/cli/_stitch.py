"""`linnaeus stitch RECIPE`: several checkpoints into one model, or a look at what would arrive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._errors import FAILED
from linnaeus.cli._format import size_text
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from torch import nn

    from linnaeus.config import Config
    from linnaeus.pretrained import LoadReport, Recipe

_EXAMPLE = """
linnaeus stitch --dry-run stitched_convnext_ropevit --config configs/mFormer_sm.yaml
linnaeus stitch my_recipe.yaml --output stitched.pth
linnaeus stitch --dry-run --json my_recipe.yaml
"""


@command(
    "stitch",
    summary="Bring several checkpoints into one model, as RECIPE says.\n\n"
    "RECIPE is a file, or the name of a packaged recipe; the model is that of the recipe's `model` section,"
    " or of the config. With --dry-run only headers are read, also of checkpoints still in the bucket,"
    " and what would arrive is shown: the exit code is 1 when the load would be refused.",
    example=_EXAMPLE,
)
@click.argument("recipe", metavar="RECIPE")
@click.option("--dry-run", is_flag=True, help="Only tell what would arrive; read no tensor, fetch nothing.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write what arrived to FILE.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def stitch(call: Call, *, recipe: str, dry_run: bool, output: Path | None, force: bool) -> int:
    """Stitch, or rehearse it, and tell what arrives."""
    if dry_run == (output is not None):
        raise click.UsageError("give either --dry-run or --output FILE")
    if output is not None and output.exists() and not force:
        raise click.UsageError(f"{output} exists already; replace it with --force, or name another")
    from linnaeus.pretrained import read_recipe

    read = read_recipe(recipe)
    if output is None:
        return _rehearsed(call, read)
    _stitched(call, read, output)
    return 0


def _rehearsed(call: Call, recipe: Recipe) -> int:
    from linnaeus.pretrained import preview

    return shown(call, preview(call.cfg, _model(call.cfg, recipe, device="meta"), recipe=recipe))


def _stitched(call: Call, recipe: Recipe, output: Path) -> None:
    from linnaeus import pretrained

    model = _model(call.cfg, recipe, device="cpu")
    report = pretrained.save_stitched(pretrained.stitch(recipe, model, call.cfg), model, output)
    if call.as_json:
        call.out.json(report.to_plain())
        return
    shown(call, report)
    size = size_text(output.stat().st_size)
    call.out.line(f"{output} ({size}), without what is fresh", mark="written:", style="bold green")


def _model(cfg: Config, recipe: Recipe, *, device: str) -> nn.Module:
    import torch

    from linnaeus.config import Config
    from linnaeus.models import build_model

    with torch.device(device):
        return build_model(Config.from_plain({"MODEL": dict(recipe.model)}) if recipe.model else cfg)


def shown(call: Call, report: LoadReport) -> int:
    """Show a report and return the exit code: that of a failure where a load is, or would be, refused."""
    if call.as_json:
        call.out.json(report.to_plain())
    else:
        from linnaeus.cli._reports import show_report

        show_report(call.out, report)
    for conflict in report.conflicts:
        call.out.error(conflict)
    if not report.conflicts and not report.is_enough:
        call.out.error(
            f"too little would arrive: at least {report.min_coverage:.1%} of each source's part is asked for"
        )
    return 0 if report.is_enough else FAILED
