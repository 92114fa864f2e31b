"""Publishing files: at one instant, in an order that survives a power loss, never replacing other files."""

import errno
import os
from pathlib import Path

import pytest

from linnaeus import files
from linnaeus.files import _commit
from support.directories import names


@pytest.fixture
def calls(monkeypatch):
    """The durable calls in the order they came, each still done for real."""
    made = []

    def recorded(name, describe):
        real = getattr(os, name)

        def call(*arguments, **keywords):
            made.append(describe(*arguments))
            return real(*arguments, **keywords)

        monkeypatch.setattr(_commit.os, name, call)

    def opened(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return f"fsync {'directory' if path.is_dir() else 'file'} {path.name}"

    recorded("fsync", opened)
    recorded("replace", lambda old, new: f"rename to {Path(new).name}")
    recorded("link", lambda old, new: f"link to {Path(new).name}")
    return made


@pytest.fixture
def temporary(tmp_path):
    """A finished temporary file in a directory d."""
    (tmp_path / "d").mkdir()
    path = files.temporary_name(tmp_path / "d" / "x.pth")
    path.write_bytes(b"new")
    return path


def no_links(error):
    """Return a link(2) that fails as on a filesystem without hard links."""

    def link(*_, **__):
        raise OSError(error, os.strerror(error))

    return link


def test_commit_syncs_the_file_then_renames_then_syncs_the_directory(temporary, calls):
    """A power loss at any point leaves the old file or the new one, whole."""
    final = temporary.with_name("x.pth")
    final.write_bytes(b"old")
    files.commit(temporary, final)
    assert calls == [f"fsync file {temporary.name}", "rename to x.pth", "fsync directory d"]
    assert final.read_bytes() == b"new"
    assert names(final.parent) == ["x.pth"]


def test_publishing_syncs_the_file_then_links_then_syncs_the_directory(temporary, calls):
    """A new name appears only when its bytes are on disk."""
    assert files.publish_new(temporary, temporary.with_name("x.pth")) is True
    assert calls == [f"fsync file {temporary.name}", "link to x.pth", "fsync directory d"]
    assert names(temporary.parent) == ["x.pth"]


@pytest.mark.parametrize("links", [True, False])
def test_publishing_never_replaces(temporary, monkeypatch, links):
    """Who comes second keeps the first one's file and leaves nothing of its own, with and without links."""
    if not links:
        monkeypatch.setattr(_commit.os, "link", no_links(errno.EPERM))
    final = temporary.with_name("x.pth")
    final.write_bytes(b"first")
    assert files.publish_new(temporary, final) is False
    assert final.read_bytes() == b"first"
    assert names(final.parent) == ["x.pth"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_publishing_works_without_hard_links(temporary, monkeypatch, error, calls):
    """Where the filesystem has no links, a rename does it, as durably."""
    monkeypatch.setattr(_commit.os, "link", no_links(error))
    assert files.publish_new(temporary, temporary.with_name("x.pth")) is True
    assert calls[-2:] == ["rename to x.pth", "fsync directory d"]
    assert temporary.with_name("x.pth").read_bytes() == b"new"


def test_publishing_passes_on_other_failures(temporary, monkeypatch):
    """A full disk is not taken for a filesystem without links."""
    monkeypatch.setattr(_commit.os, "link", no_links(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.publish_new(temporary, temporary.with_name("x.pth"))


def test_directories_are_made_durably_from_the_top(tmp_path, calls):
    """Each new directory's parent is synced; one that is there costs nothing."""
    files.make_directory(tmp_path / "a" / "b")
    assert calls == [f"fsync directory {tmp_path.name}", "fsync directory a"]
    files.make_directory(tmp_path / "a" / "b")
    assert len(calls) == 2


def test_a_link_is_pointed_elsewhere_in_one_step(tmp_path, calls):
    """Readers see the old target or the new one; the link is relative and nothing else is left."""
    link = tmp_path / "latest.pth"
    assert files.point_link(link, "one.pth")
    assert files.point_link(link, "two.pth")
    assert str(link.readlink()) == "two.pth"
    assert calls == ["rename to latest.pth"] * 2
    assert files.point_link(link, "two.pth")
    assert len(calls) == 2
    assert names(tmp_path) == ["latest.pth"]


def test_a_real_file_is_never_replaced_by_a_link(tmp_path):
    """Somebody's own latest.pth stays."""
    (tmp_path / "latest.pth").write_bytes(b"mine")
    assert files.point_link(tmp_path / "latest.pth", "one.pth") is False
    assert (tmp_path / "latest.pth").read_bytes() == b"mine"


def test_removing_what_is_gone_is_fine(tmp_path):
    """Two may remove the same file."""
    (tmp_path / "x").touch()
    files.remove_file(tmp_path / "x")
    files.remove_file(tmp_path / "x")
    assert not names(tmp_path)


@pytest.mark.parametrize("links", [True, False])
def test_setting_aside_finds_a_free_name(tmp_path, monkeypatch, links):
    """Nothing that was set aside before is lost, with and without links."""
    if not links:
        monkeypatch.setattr(_commit.os, "link", no_links(errno.EPERM))
    for content in ("one", "two", "three"):
        (tmp_path / "x.pth").write_text(content)
        aside = files.set_aside(tmp_path / "x.pth", ".invalid")
        assert aside.read_text() == content
    kept = {name: (tmp_path / name).read_text() for name in names(tmp_path)}
    assert kept == {"x.pth.invalid": "one", "x.pth.invalid.1": "two", "x.pth.invalid.2": "three"}


def test_text_is_replaced_in_one_step(tmp_path, calls):
    """Readers of a small text see the old one or the new one, whole."""
    files.write_text(tmp_path / "note", "old")
    files.write_text(tmp_path / "note", "new é")
    assert (tmp_path / "note").read_text(encoding="utf-8") == "new é"
    assert calls == ["rename to note"] * 2
    assert names(tmp_path) == ["note"]


def test_text_that_can_not_be_written_leaves_nothing(tmp_path):
    """A failed write leaves the old text and no temporary file."""
    files.write_text(tmp_path / "note", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "note", "\ud800")
    assert names(tmp_path) == ["note"]
    assert (tmp_path / "note").read_text() == "old"
