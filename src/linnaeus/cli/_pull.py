"""`linnaeus pull [RUN_DIR]`: bring the newest checkpoint of a run back from its bucket."""

from __future__ import annotations

from pathlib import Path

import click

from linnaeus.cli._format import size_text
from linnaeus.cli._options import Call, command

_EXAMPLE = """
linnaeus pull
linnaeus pull runs/digits/checkpoints --config configs/quickstart.yaml
"""


@command(
    "pull",
    summary="Bring the newest valid checkpoint of a run back from its bucket.\n\n"
    "The bucket is ENV.OUTPUT.BUCKET, enabled or not. Nothing is fetched when RUN_DIR has one as new. RUN_DIR"
    " is the directory of a run's checkpoints; without it, that of the config. Resuming does this by itself.",
    example=_EXAMPLE,
)
@click.argument("directory", required=False, metavar="[RUN_DIR]", type=click.Path(path_type=Path))
def pull(call: Call, *, directory: Path | None) -> None:
    """Pull one run."""
    from linnaeus.errors import CheckpointNotFoundError
    from linnaeus.files import make_directory
    from linnaeus.remote import open_remote
    from linnaeus.resuming import choose_newest

    place = directory or Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
    remote = open_remote(call.cfg.ENV.OUTPUT.BUCKET)
    make_directory(place)
    choice = choose_newest(place, remote)
    if choice is None:
        raise CheckpointNotFoundError(
            identifier=str(place), places=[f"it holds none, and there is none in {remote.place}"]
        )
    if call.as_json:
        found = {"path": str(choice.path.absolute()), "reason": choice.reason}
        call.out.json(found | {"passed_over": list(choice.passed_over)})
        return
    call.out.line(f"{choice.path} ({size_text(choice.checkpoint.size_bytes)}): {choice.reason}")
