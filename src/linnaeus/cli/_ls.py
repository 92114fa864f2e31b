"""`linnaeus ls [DIR] [--remote]`: which checkpoints are in the cache, a run's directory, or the bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._options import Call, command
from linnaeus.errors import CheckpointNotFoundError

if TYPE_CHECKING:
    from linnaeus.cli._listings import Listing

_EXAMPLE = """
linnaeus ls
linnaeus ls runs/digits/checkpoints
linnaeus ls --remote --set ENV.INPUT.BUCKET.NAME=my-bucket
linnaeus ls --remote --run
"""


@command(
    "ls",
    summary="List the checkpoints in the cache, in DIR, or in the bucket.\n\n"
    "The checkpoints of a run stand newest first, with what was measured when they were saved. The structure"
    " of each file is looked at; `linnaeus verify` also checks every byte.",
    example=_EXAMPLE,
)
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--remote", is_flag=True, help="List the bucket ENV.INPUT.BUCKET, enabled or not.")
@click.option(
    "--run", is_flag=True, help="With --remote: list the run's copies in ENV.OUTPUT.BUCKET instead."
)
def ls(call: Call, *, directory: Path | None, remote: bool, run: bool) -> None:
    """List one of the places."""
    from linnaeus.cli import _listings

    if run:
        place = directory or Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
        _show(call, _listings.of_copies(call.cfg, place))
        return

    cache_dir = call.cfg.ENV.INPUT.CACHE_DIR
    if remote and directory is not None:
        raise click.UsageError("give DIR or --remote, not both.", click.get_current_context())
    if remote:
        _show(call, _listings.of_bucket(call.cfg.ENV.INPUT.BUCKET, cache_dir))
    elif directory is None:
        _show(call, _listings.of_files(cache_dir))
    elif directory.is_dir():
        _show(call, _listings.of_directory(directory))
    else:
        raise CheckpointNotFoundError(identifier=str(directory), places=["there is no such directory"])


def _show(call: Call, listing: Listing) -> None:
    if call.as_json:
        call.out.json({"place": listing.place, "checkpoints": [entry.plain for entry in listing.entries]})
        return
    if listing.entries:
        call.out.show(listing.table())
    size = size_text(sum(entry.plain["size_bytes"] for entry in listing.entries))
    total = f"{count_text(len(listing.entries), 'file')}, {size}" if listing.entries else "no checkpoints"
    call.out.line(f"{total} in {listing.place}")
