"""From what was typed as FILE to a file."""

from __future__ import annotations

from pathlib import Path

from linnaeus.cli._options import Call
from linnaeus.errors import CheckpointNotFoundError


def named_file(argument: str, call: Call) -> Path:
    """Return the file that an argument names: a path if there is such a file, else a name to resolve.

    Raises:
        CheckpointNotFoundError: There is no such file, and no checkpoint of that name.
        LinnaeusError: As `linnaeus.resolving.resolve` raises.
    """
    path = Path(argument)
    if argument and path.exists():
        return path
    if "/" in argument and not path.is_absolute():
        raise CheckpointNotFoundError(identifier=argument, places=["there is no such file"])
    from linnaeus.resolving import resolve

    with call.out.transfers() as progress:
        return resolve(argument, call.cfg, progress=progress)
