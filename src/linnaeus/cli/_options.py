"""What all commands have in common: their options, their help, and the config that they are given."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linnaeus.cli._listening import set_level
from linnaeus.cli._render import Renderer

if TYPE_CHECKING:
    from linnaeus.config import Config

DEFAULT_CONFIG = Path("linnaeus.yaml")


@dataclass(frozen=True, slots=True)
class Call:
    """What a command works with: where to show things, the config, whether JSON is wanted, and --set."""

    out: Renderer
    cfg: Config
    as_json: bool
    overrides: tuple[str, ...] = ()


Body = Callable[..., int | None]
Decorator = Callable[[Any], Any]


def command(name: str, *, summary: str, example: str, lists: bool = True) -> Callable[[Body], click.Command]:
    """Make a command of a function that takes a `Call` and the command's own parameters.

    Args:
        name: As typed.
        summary: What it does; the first sentence stands in the list of commands.
        example: Command lines, as shown in its help.
        lists: Whether it has `--json`.
    """

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def run(config: Path | None, overrides: tuple[str, ...], as_json: bool = False, **own: Any) -> int:  # noqa: FBT001, FBT002 - click passes it by name
            out = click.get_current_context().find_object(Renderer) or Renderer()
            call = Call(out, _load(config, overrides), as_json, overrides)
            return body(call, **own) or 0

        options = [*_CONFIG_OPTIONS, *([_JSON] if lists else []), talk_options]
        decorated: Any = run
        for option in reversed(options):
            decorated = option(decorated)
        lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
        made: click.Command = click.command(name, help=summary, epilog=f"\b\nExample:\n{lines}")(decorated)
        # Own options first in the help, common ones last.
        made.params.sort(key=lambda parameter: parameter.name in _COMMON)
        return made

    return decorate


def _load(path: Path | None, overrides: tuple[str, ...]) -> Config:
    from linnaeus.config import load_config

    if path is None and DEFAULT_CONFIG.is_file():
        path = DEFAULT_CONFIG
    return load_config(path, overrides)


def _level_option(*names: str, level: int, text: str) -> Decorator:
    def apply(_: click.Context, __: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
        if wanted:
            set_level(level)

    return click.option(*names, is_flag=True, expose_value=False, callback=apply, help=text)


def talk_options(function: Any) -> Any:
    """Add the options that say how much is told; they may stand before or after the command's name."""
    debug = _level_option(
        "--debug", level=logging.DEBUG, text="Tell everything, and show where an error comes from."
    )
    verbose = _level_option(
        "-v", "--verbose", level=logging.INFO, text="Tell what is done, on standard error."
    )
    return verbose(debug(function))


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_CONFIG_OPTIONS = [
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read this config instead of ./linnaeus.yaml.",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a key of the config, for example ENV.INPUT.CACHE_DIR=/data; may be repeated.",
    ),
]
_COMMON = ("config", "overrides", "as_json", "verbose", "debug")
