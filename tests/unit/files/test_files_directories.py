"""Directories that appear at one instant, and replace nothing unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from linnaeus import files
from support.directories import names


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished directory under a temporary name."""
    path = tmp_path / "made"
    path.mkdir()
    (path / "a").write_text("new")
    return path


def test_a_finished_directory_gets_its_name(made: Path) -> None:
    """With all that is in it; the temporary name is gone."""
    assert files.publish_new_directory(made, made.parent / "final")
    assert names(made.parent) == ["final"]
    assert (made.parent / "final" / "a").read_text() == "new"


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_stands_there_stays(made: Path, kind: str) -> None:
    """Another one's directory, or a file, is not replaced, and the finished one is left to the caller."""
    final = made.parent / "final"
    if kind == "file":
        final.write_text("old")
    else:
        final.mkdir()
        (final / "b").write_text("old")
    assert not files.publish_new_directory(made, final)
    assert (final if kind == "file" else final / "b").read_text() == "old"
    assert (made / "a").read_text() == "new"


def test_other_failures_are_passed_on(made: Path) -> None:
    """A place that is not there is no sign of another one's directory."""
    with pytest.raises(FileNotFoundError):
        files.publish_new_directory(made, made.parent / "nowhere" / "final")
