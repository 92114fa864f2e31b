"""`linnaeus convert SOURCE TARGET`: a checkpoint in another file format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._named import named_file
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.converting import Conversion

_EXAMPLE = """
linnaeus convert best.pth best.safetensors
linnaeus convert model.safetensors model.pth
linnaeus convert from_torch_1_0.pth plain.pth
linnaeus convert checkpoint_epoch_3.sharded checkpoint_epoch_3.pth
linnaeus convert --trust our_old_training.pth plain.pth
"""

_NAMED_PARTS = 6


@command(
    "convert",
    summary="Write the checkpoint SOURCE as TARGET, in the format of its suffix.\n\n"
    ".safetensors takes the weights (or every tensor, with --all) and, as texts, what the file says of its"
    " run; tensors that share memory are written one by one. .pth is a whole and safe checkpoint, whatever"
    " version of torch wrote SOURCE. .sharded is a directory that torch.distributed.checkpoint reads; to and"
    " from it little is in memory at a time. SOURCE is a path, or a name as for resolve.",
    example=_EXAMPLE,
)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Into .safetensors: every tensor, by dotted names.")
@click.option(
    "--trust",
    is_flag=True,
    help="Run the code that an unsafe SOURCE asks for, in a process of its own. Only for files that you trust"
    " as you trust a program: it may do whatever you may. Objects become dicts of their attributes.",
)
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
def convert(call: Call, *, source: str, target: Path, everything: bool, trust: bool, force: bool) -> None:
    """Convert one file and tell what became of it."""
    from linnaeus import converting

    file = named_file(source, call)
    _require_sensible(file, target, everything=everything)
    if trust and not converting.is_safetensors(file):
        _tell_trusted(call, file)
    done = converting.convert(file, target, everything=everything, trust=trust, replace=force)
    if call.as_json:
        call.out.json(done.to_plain())
    else:
        _tell(call, done)


def _require_sensible(source: Path, target: Path, *, everything: bool) -> None:
    """Check that the two names say what is wanted.

    Raises:
        click.UsageError: They don't.
    """
    from linnaeus.converting import SUFFIXES, is_safetensors

    if target.suffix not in SUFFIXES:
        raise click.UsageError(f"TARGET must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}: {target}")
    if is_safetensors(source) and is_safetensors(target):
        raise click.UsageError("SOURCE and TARGET are both safetensors")
    if everything and not is_safetensors(target):
        raise click.UsageError("--all is for a TARGET in .safetensors; a .pth holds everything anyway")


def _tell_trusted(call: Call, file: Path) -> None:
    from linnaeus import pth

    asked = pth.describe(file).unsafe
    if asked:
        call.out.warning(f"running code of {file}: {', '.join(asked)}")


def _tell(call: Call, done: Conversion) -> None:
    size = f"{count_text(done.num_tensors, 'tensor')}, {size_text(done.size_bytes)}"
    call.out.line(f"{done.source} to {done.target} ({size})", mark="converted:", style="bold green")
    if done.left_out:
        parts = list(dict.fromkeys(name.split(".", 1)[0] for name in done.left_out))
        more = ", …" if len(parts) > _NAMED_PARTS else ""
        entries = f"{len(done.left_out):,} tensors and values"
        call.out.line(f"{entries}: {', '.join(parts[:_NAMED_PARTS])}{more}", mark="left out:", style="bold")
