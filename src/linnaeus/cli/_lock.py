"""`linnaeus lock CONFIG`: record what the names in a config stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._format import count_text
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.config import Config

_EXAMPLE = """
linnaeus lock configs/quickstart.yaml
"""


@command(
    "lock",
    summary="Record what each checkpoint named in CONFIG stands for, and hold later runs to it.\n\n"
    "Size, SHA-256 and source go into linnaeus.lock beside CONFIG; from then on other content under one of"
    " these names is an error. The sources of MODEL.PRETRAINED_RECIPE and the files of an index are among"
    " them. Run it again to accept what is there now.",
    example=_EXAMPLE,
)
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
def lock(call: Call, *, path: Path) -> None:
    """Lock one config."""
    from linnaeus import resolving
    from linnaeus.config import load_config

    cfg = load_config(path, call.overrides)
    with call.out.transfers() as progress:
        written = resolving.lock(cfg, path, also=_sources(cfg), progress=progress)
    target = path.with_name("linnaeus.lock")
    if call.as_json:
        call.out.json({"path": str(target), "checkpoints": {n: e.to_plain() for n, e in written.items()}})
        return
    for name, entry in written.items():
        call.out.line(f"{name} sha256:{entry.sha256} ({entry.source})")
    call.out.line(f"{count_text(len(written), 'name')} in {target}")


def _sources(cfg: Config) -> list[str]:
    """Return the checkpoints of the config's own recipe, where it has one."""
    if not cfg.MODEL.PRETRAINED_RECIPE:
        return []
    from linnaeus.pretrained import checkpoints_of, read_recipe

    return list(checkpoints_of(read_recipe(cfg.MODEL.PRETRAINED_RECIPE), cfg).values())
