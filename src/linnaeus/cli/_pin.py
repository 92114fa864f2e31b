"""`linnaeus pin FILE...`: keep checkpoints, whatever the rules of retention say."""

from __future__ import annotations

from pathlib import Path

import click

from linnaeus.cli._options import Call, command
from linnaeus.errors import CheckpointNotFoundError

_EXAMPLE = """
linnaeus pin runs/digits/checkpoints/checkpoint_epoch_7.pth
linnaeus pin --remove runs/digits/checkpoints/checkpoint_epoch_7.pth
"""


@command(
    "pin",
    summary="Keep each FILE, whatever the rules of retention say.\n\n"
    "A pin is an empty file beside the checkpoint, FILE.pinned; runs and `linnaeus prune` heed it.",
    example=_EXAMPLE,
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--remove", is_flag=True, help="Take the pin away.")
def pin(call: Call, *, files: tuple[Path, ...], remove: bool) -> None:
    """Pin files, or take their pins away; none is touched when one is missing."""
    from linnaeus.runs import set_pin

    for path in files:
        if not path.exists():
            raise CheckpointNotFoundError(identifier=str(path), places=["there is no such file"])
    changed = [set_pin(path, pinned=not remove) for path in files]
    if call.as_json:
        call.out.json([{"path": str(path), "pinned": not remove} for path in files])
        return
    for path, is_changed in zip(files, changed, strict=True):
        state = "no longer pinned" if remove else "pinned"
        call.out.line(f"{path} {'is' if is_changed else 'was already'} {state}")
