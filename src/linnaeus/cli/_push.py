"""`linnaeus push [RUN_DIR]`: send a run's checkpoints that its bucket has not."""

from __future__ import annotations

from pathlib import Path

import click

from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._options import Call, command

_EXAMPLE = """
linnaeus push
linnaeus push runs/digits/checkpoints --config configs/quickstart.yaml
"""


@command(
    "push",
    summary="Send the checkpoints of a run that its bucket should have and has not.\n\n"
    "The bucket is ENV.OUTPUT.BUCKET, enabled or not; its KEEP rules say what it should have. RUN_DIR is the"
    " directory of a run's checkpoints; without it, that of the config.",
    example=_EXAMPLE,
)
@click.argument("directory", required=False, metavar="[RUN_DIR]", type=click.Path(path_type=Path))
def push(call: Call, *, directory: Path | None) -> None:
    """Push one run."""
    from linnaeus import saving

    place = directory or Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
    copies = saving.copies_of(call.cfg, place)
    with call.out.transfers() as progress:
        sent = saving.push(copies, progress=progress)
    if call.as_json:
        names = [{"name": c.name, "size_bytes": c.size_bytes} for c in sent]
        call.out.json({"place": copies.remote.place, "sent": names})
        return
    size = size_text(sum(c.size_bytes for c in sent))
    done = f"{count_text(len(sent), 'file')}, {size}, sent" if sent else "nothing was missing"
    call.out.line(f"{done} to {copies.remote.place}")
