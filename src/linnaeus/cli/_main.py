"""The program `linnaeus`: from arguments to a command to an exit code."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from linnaeus.cli._errors import EXIT_CODES_HELP, guarded
from linnaeus.cli._listening import listening
from linnaeus.cli._options import talk_options
from linnaeus.cli._render import Renderer, open_missing_streams

_COMMANDS = (
    "resolve",
    "upload",
    "ls",
    "inspect",
    "verify",
    "diff",
    "convert",
    "stitch",
    "load-report",
    "prune",
    "pin",
    "train",
)

_SUMMARY = """Find, fetch, check and keep the checkpoints of PyTorch training runs.

Settings come from linnaeus.yaml in this directory, if there is one, or from --config FILE.
"""


class _LazyGroup(click.Group):
    """Commands by name; a command's file is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"linnaeus.cli._{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            nearest = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            ctx.fail(f"there is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        ctx.ensure_object(Renderer).line(f"linnaeus {version('linnaeus')}")
        ctx.exit()


@click.group(cls=_LazyGroup, help=_SUMMARY, epilog=EXIT_CODES_HELP)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@talk_options
def _linnaeus() -> None:
    """Hold the commands; see `_SUMMARY`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What stands after the program's name; None means those of this process.
    """
    open_missing_streams()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    out = Renderer()
    with listening(out):
        return guarded(out, lambda: _run(given, out))


def _run(arguments: list[str], out: Renderer) -> int:
    # click's own `main` would turn interrupts and closed pipes into statuses of its own.
    with _linnaeus.make_context("linnaeus", arguments, obj=out) as context:
        return int(_linnaeus.invoke(context) or 0)
