"""Names from anywhere: the accepted ones stay inside the cache, the refused ones touch nothing."""

import os
import posixpath
import stat
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linnaeus.config import BucketConfig
from linnaeus.errors import CheckpointNotFoundError, IdentifierError, LinnaeusError
from linnaeus.files import temporary_name
from linnaeus.resolving import check_name, is_absolute, resolve_in

CACHE = "/data/cache"
TRICKY = st.text(alphabet="a.-~/\\*?[]{} \t\n\0\u202e\u200b%:é\ud800", max_size=12)
NAMES = st.one_of(st.text(max_size=300), TRICKY, st.from_regex(r"(\.\./)*[a-z]{1,3}\.pth(\.\.)?"))


def accepted(name):
    """Tell whether a name is accepted; a refusal is always an IdentifierError."""
    try:
        return check_name(name) == name
    except IdentifierError:
        return False


@given(NAMES)
@example("..")
@example("a/../../b")
@example("a" * 256)
@settings(max_examples=500, deadline=None)
def test_every_accepted_name_is_one_entry_of_the_cache(name):
    """Joined to the cache, an accepted name lies directly in it, is visible, and can be a file's name."""
    if accepted(name):
        path = posixpath.normpath(posixpath.join(CACHE, name))
        assert posixpath.dirname(path) == CACHE
        assert posixpath.basename(path) == name
        assert not name.startswith((".", "-"))
        assert len(os.fsencode(name)) <= 255
        assert len(os.fsencode(temporary_name(Path(path)).name)) <= 255
        assert not set(name) & set("*?[]{}\0\n/\\")


@given(NAMES)
@settings(max_examples=300, deadline=None)
def test_a_name_that_is_refused_changes_nothing(tmp_path_factory, name):
    """Resolving a name without a bucket ends in one of our errors, and no name makes or changes a file."""
    cache = tmp_path_factory.getbasetemp() / "property" / "cache"
    refused = not accepted(name) and not is_absolute(name)
    with pytest.raises(IdentifierError if refused else LinnaeusError):
        resolve_in(name, str(cache), BucketConfig())
    assert not cache.parent.exists()


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_an_enabled_bucket_changes_nothing_for_refused_names(tmp_path_factory, name):
    """A refused name is refused before the bucket is asked or the cache made."""
    cache = tmp_path_factory.getbasetemp() / "property" / "cache"
    if not accepted(name) and not is_absolute(name):
        with pytest.raises(IdentifierError):
            resolve_in(name, str(cache), BucketConfig(ENABLED=True, REMOTE="nosuch"))
        assert not cache.parent.exists()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_system_agrees_with_what_is_accepted(tmp_path_factory, name):
    """An accepted name can be made as a file, and is then found; nothing else appears beside it."""
    if not accepted(name):
        return
    cache = tmp_path_factory.getbasetemp() / "agreed"
    cache.mkdir(exist_ok=True)
    path = cache / name
    path.write_bytes(b"x")
    try:
        assert resolve_in(name, str(cache), BucketConfig()) == str(path)
        assert stat.S_ISREG(path.lstat().st_mode)
        assert [entry.name for entry in cache.iterdir()] == [name]
    finally:
        path.unlink()
    with pytest.raises(CheckpointNotFoundError):
        resolve_in(name, str(cache), BucketConfig())
