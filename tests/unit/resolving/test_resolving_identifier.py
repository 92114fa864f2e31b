"""What may name a checkpoint."""

from pathlib import Path

import pytest

from linnaeus.config import BucketConfig
from linnaeus.errors import IdentifierError
from linnaeus.resolving import check_name, is_absolute, resolve_in

ACCEPTED = [
    "convnext_tiny_22k_1k_384.pth", "checkpoint.pth", "x", "X.PTH", "0.pth", "_a.pth", "a.b.c", "a..b.pth",
    "step=100.pth", "ema@0.99.pth", "c++.pth", "with space.pth", "é.pth", "モデル.pth", "a:b.pth", "100%.pth",
    "a,b.pth", "$x.pth", "a#b.pth", "a" * 255, "é" * 127,
]  # fmt: skip
REFUSED = [
    ("", "empty"), (" ", "empty"), ("\t", "empty"),
    ("a/b.pth", "separator"), ("../x.pth", "separator"), ("./x.pth", "separator"), ("a\\b.pth", "separator"),
    ("..\\x", "separator"), ("x.pth/", "separator"),
    ("..", "dot"), (".", "dot"), (".hidden.pth", "dot"), (".linnaeus", "dot"), ("...", "dot"),
    ("-x.pth", "dash"), ("--config", "dash"), ("-", "dash"),
    ("~", "tilde"), ("~root", "tilde"),
    ("*.pth", "glob"), ("x?.pth", "glob"), ("x[0].pth", "glob"), ("x{a,b}.pth", "glob"),
    ("x\n.pth", "control"), ("x\0.pth", "control"), ("x\x7f.pth", "control"), ("x\x1b[31m", "glob"),
    ("x\u200b.pth", "invisible"), ("x\u202egnp.pth", "invisible"), ("\ufeffx.pth", "invisible"),
    ("x\u2028.pth", "invisible"), ("x\ud800.pth", "invisible"), ("x\n", "control"),
    (" x.pth", "white space"), ("x.pth ", "white space"), ("x.pth\u3000", "white space"),
    ("a" * 256, "255 bytes"), ("é" * 128, "255 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_bare_file_name_is_accepted_as_it_is(name):
    """Ordinary names, also with spaces and letters of any script, come back unchanged."""
    assert check_name(name) == name
    assert not is_absolute(name)


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_anything_else_is_refused_with_its_reason(name, reason):
    """The error shows the name and says what is wrong with it."""
    with pytest.raises(IdentifierError, match=reason) as caught:
        check_name(name)
    assert caught.value.identifier == name
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_refusal_comes_before_anything_is_touched(name, reason, cache):
    """A refused name makes no cache and asks no bucket."""
    enabled = BucketConfig(ENABLED=True, REMOTE="nosuchremote")
    with pytest.raises(IdentifierError, match=reason):
        resolve_in(name, str(cache), enabled)
    assert not cache.exists()


@pytest.mark.parametrize("path", ["/tmp/x\0.pth", "/x\n.pth", "/tmp/\ud800.pth", "/\x1b[31m"])
def test_absolute_paths_that_no_system_has_are_refused(path, cache):
    """Control characters and half characters in a path are errors of ours, not of Python."""
    with pytest.raises(IdentifierError):
        resolve_in(path, str(cache), BucketConfig())


def test_a_path_in_the_bytes_of_another_encoding_is_a_path(tmp_path):
    """A file whose name is no UTF-8 is found by its absolute path."""
    path = f"{tmp_path}/caf\udce9.pth"
    Path(path).write_bytes(b"x")
    assert resolve_in(path, "/nowhere", BucketConfig()) == path
