"""From errors to exit codes: the rim at which every error becomes a message and a status."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import click

from linnaeus.cli._render import Renderer
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    ConfigError,
    IdentifierError,
    InsufficientSpaceError,
    LinnaeusError,
    RemoteAuthError,
    RemoteConflictError,
    RemoteError,
    RemoteNotFoundError,
    UnsafeCheckpointError,
)

FAILED = 1
USAGE = 2
INTERRUPTED = 130
# What a shell reports for a program that a closed pipe ended.
PIPE_CLOSED = 141

# The first class that fits decides.
_CODES: tuple[tuple[type[LinnaeusError], int], ...] = (
    (ConfigError, USAGE),
    (IdentifierError, USAGE),
    (CheckpointNotFoundError, 3),
    (RemoteNotFoundError, 3),
    (RemoteAuthError, 4),
    (RemoteConflictError, FAILED),
    (RemoteError, 5),
    (UnsafeCheckpointError, 7),
    (CheckpointInvalidError, 6),
    (InsufficientSpaceError, 8),
    (LinnaeusError, FAILED),
)

EXIT_CODES_HELP = """\b
Exit codes:
  0  done                          5  bucket unreachable, transfer failed
  1  another failure               6  corrupt or invalid checkpoint
  2  wrong usage, config or name   7  unsafe checkpoint
  3  not found                     8  no space left
  4  refused by the bucket
"""

_log = logging.getLogger(__name__)


def exit_code(error: LinnaeusError) -> int:
    """Return the exit code that stands for an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def guarded(out: Renderer, act: Callable[[], int]) -> int:
    """Run a command; tell what goes wrong on standard error and return the exit code.

    Args:
        out: Where to tell it.
        act: The command; returns its exit code.
    """
    try:
        try:
            return act()
        finally:
            out.flush()  # here, so that a closed pipe is met inside this function
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.ClickException as error:
        _tell_usage(out, error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        out.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        out.abandon()
        return PIPE_CLOSED
    except LinnaeusError as error:
        _tell(out, error, str(error))
        return exit_code(error)
    except OSError as error:
        _tell(out, error, _system_message(error))
        _give_up_unwritable(out)
        return FAILED
    except Exception as error:  # noqa: BLE001 - the rim: what nobody foresaw still ends in one line and a status
        hint = "" if _debugging() else " Run it again with --debug to see where."
        _tell(out, error, f"unexpected {type(error).__name__}: {error}.{hint}")
        return FAILED


def _give_up_unwritable(out: Renderer) -> None:
    """Drop what standard output does not take, or Python would try once more at its end and exit with 120."""
    try:
        out.flush()
    except OSError:
        out.abandon()


def _tell(out: Renderer, error: Exception, message: str) -> None:
    if _debugging():
        out.raw_error("".join(traceback.format_exception(error)))
    out.error(message)


def _tell_usage(out: Renderer, error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    hint = f"\nSee: {context.command_path} --help" if isinstance(context, click.Context) else ""
    out.error(f"{error.format_message()}{hint}")


def _system_message(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}"


def _debugging() -> bool:
    return _log.isEnabledFor(logging.DEBUG)
