"""From errors to exit codes and one line each."""

from __future__ import annotations

import logging

import click
import pytest

from linnaeus import errors
from linnaeus.cli._errors import exit_code, guarded
from linnaeus.cli._listening import listening, set_level
from linnaeus.cli._render import Renderer

_REMOTE = {"remote": "bucket b", "operation": "download"}
_FILE = {"path": "x.pth", "problem": "p"}
_CODES = {
    errors.ConfigError(field="A", expected="e"): 2,
    errors.IdentifierError(identifier="..", reason="r"): 2,
    errors.CheckpointNotFoundError(identifier="x", places=["nowhere"]): 3,
    errors.CheckpointInvalidError(**_FILE): 6,
    errors.CorruptCheckpointError(**_FILE): 6,
    errors.UnsafeCheckpointError(**_FILE): 7,
    errors.IncompleteCheckpointError(**_FILE, missing=["__2_0.distcp"]): 6,
    errors.PinMismatchError(**_FILE, expected="a", found="b"): 6,
    errors.UnsupportedFormatError(**_FILE, found="f", supported="s"): 6,
    errors.RemoteError(**_REMOTE): 5,
    errors.RcloneMissingError(**_REMOTE): 5,
    errors.RemoteAuthError(**_REMOTE): 4,
    errors.RemoteConflictError(**_REMOTE): 1,
    errors.RemoteNotFoundError(**_REMOTE): 3,
    errors.RemoteTimeoutError(**_REMOTE): 5,
    errors.SaveError(**_FILE): 1,
    errors.PeerFailedError(**_FILE, ranks=[3]): 1,
    errors.SaveTimeoutError(**_FILE, seconds=600.0): 1,
    errors.TornSaveError(**_FILE): 1,
    errors.InsufficientSpaceError(**_FILE): 8,
    errors.LoadError(**_FILE): 1,
    errors.IncompatibleWeightsError(**_FILE): 1,
    errors.StitchError(**_FILE): 1,
    errors.ResumeMismatchError(**_FILE): 1,
}


@pytest.mark.parametrize(("error", "code"), _CODES.items(), ids=lambda value: type(value).__name__)
def test_every_error_has_its_documented_exit_code(error: errors.LinnaeusError, code: int) -> None:
    """Each kind of error ends the program with the code that the design gives it."""
    assert exit_code(error) == code


def test_the_table_above_is_complete() -> None:
    """A new kind of error needs a decision on its exit code."""
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    ours = {kind for kind in kinds if issubclass(kind, errors.LinnaeusError)}
    assert ours - {type(error) for error in _CODES} == {errors.LinnaeusError}


def _run(act: object, capfd: pytest.CaptureFixture[str], *, debug: bool = False) -> tuple[int, str]:
    def raising() -> int:
        if debug:
            set_level(logging.DEBUG)
        assert isinstance(act, BaseException)
        raise act

    out = Renderer()
    with listening(out):
        code = guarded(out, raising)
    return code, capfd.readouterr().err


def test_an_error_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """An error of ours is told in its own words, without a traceback."""
    error = errors.CheckpointNotFoundError(identifier="x.pth", places=["not here"])
    assert _run(error, capfd) == (3, "error: checkpoint 'x.pth' not found: not here.\n")


def test_an_unforeseen_error_says_how_to_see_more(capfd: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw ends in one line that names --debug, and with it in a traceback."""
    expected = "error: unexpected ZeroDivisionError: one. Run it again with --debug to see where.\n"
    assert _run(ZeroDivisionError("one"), capfd) == (1, expected)
    code, shown = _run(ZeroDivisionError("one"), capfd, debug=True)
    assert code == 1
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith("error: unexpected ZeroDivisionError: one.\n")


def test_an_unforeseen_error_shows_no_secret(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials of the environment are redacted from errors and tracebacks."""
    monkeypatch.setenv("B2_APPLICATION_KEY", "K001secret")
    _, shown = _run(ValueError("with K001secret inside"), capfd, debug=True)
    assert "K001secret" not in shown
    assert "with *** inside" in shown


def test_an_error_of_the_system_names_its_file(capfd: pytest.CaptureFixture[str]) -> None:
    """What the system refuses is told with the file."""
    error = PermissionError(13, "Permission denied", "/x")
    assert _run(error, capfd) == (1, "error: /x: Permission denied\n")


def test_an_error_can_not_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Names from a hostile file are spelled out in errors."""
    error = errors.UnsafeCheckpointError(path="x", problem="p", globals=["evil\x1b[2J"])
    assert "evil\\x1b[2J" in _run(error, capfd)[1]


def test_an_interrupt_ends_with_130(capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is no failure of the program."""
    assert _run(KeyboardInterrupt(), capfd) == (130, "error: interrupted\n")


def test_a_usage_error_ends_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is told in one line."""
    assert _run(click.UsageError("no such thing"), capfd) == (2, "error: no such thing\n")


def test_listening_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    """After a command, logging is as it was before."""
    log = logging.getLogger("linnaeus")
    before = (list(log.handlers), log.level, log.propagate)
    with listening(Renderer()):
        set_level(logging.DEBUG)
        log.warning("something %s", "odd")
        log.info("done")
    assert (list(log.handlers), log.level, log.propagate) == before
    assert capfd.readouterr().err == "warning: something odd\ndone\n"
