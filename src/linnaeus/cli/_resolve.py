"""`linnaeus resolve NAME`: find a checkpoint, fetching it if need be, and print its path."""

from __future__ import annotations

import click

from linnaeus.cli._options import Call, command

_EXAMPLE = """
linnaeus resolve convnext_tiny_22k_1k_384.pth
python train.py --weights "$(linnaeus resolve convnext_tiny_22k_1k_384.pth)"
"""


@command(
    "resolve",
    summary="Print the path of the checkpoint NAME.\n\n"
    "NAME is an absolute path or a file name. A name is looked up in the cache (ENV.INPUT.CACHE_DIR),"
    " then fetched from the bucket if ENV.INPUT.BUCKET.ENABLED is true.",
    example=_EXAMPLE,
)
@click.argument("name")
def resolve(call: Call, *, name: str) -> None:
    """Print where a checkpoint is."""
    from linnaeus import resolving
    from linnaeus.pth import size_of

    with call.out.transfers() as progress:
        path = resolving.resolve(name, call.cfg, progress=progress)
    if call.as_json:
        size_bytes = size_of(path)
        call.out.json({"identifier": name, "path": str(path.absolute()), "size_bytes": size_bytes})
    else:
        call.out.path(path)
