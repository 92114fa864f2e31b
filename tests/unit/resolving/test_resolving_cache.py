"""The parts of resolving that need no bucket: paths, hits, and errors that say where was looked."""

import subprocess
import sys
from pathlib import Path

import pytest

import linnaeus
from linnaeus.config import BucketConfig, Config
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    ConfigError,
    CorruptCheckpointError,
    IdentifierError,
)
from linnaeus.resolving import resolve, resolve_in
from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path
from support.directories import names

DISABLED = BucketConfig()
# Anything that would use this fails.
UNUSABLE = BucketConfig(ENABLED=True, REMOTE="nosuchremote")


@pytest.fixture
def full_cache(cache):
    """A cache that holds x.pth."""
    cache.mkdir()
    (cache / "x.pth").write_bytes(b"content")
    return cache


def system_calls(act):
    """Return the names of the operating system's functions that `act` calls, in order."""
    made = []

    def watch(frame, event, function):
        if event == "c_call" and getattr(function, "__module__", None) in (
            "posix",
            "io",
            "_io",
            "fcntl",
            "time",
        ):
            made.append(function.__name__)

    sys.setprofile(watch)
    try:
        act()
    finally:
        sys.setprofile(None)
    return [name for name in made if name not in ("fspath", "fsencode", "fsdecode")]


def test_a_hit_costs_one_stat_and_nothing_else(full_cache):
    """No lock, no listing, no file opened, no process: one look at the file."""
    name, directory = "x.pth", str(full_cache)
    assert system_calls(lambda: resolve_in(name, directory, UNUSABLE)) == ["stat"]


def test_a_hit_leaves_the_cache_as_it_is(full_cache):
    """Not even a hidden directory is made, so a read-only cache serves."""
    assert resolve_in("x.pth", str(full_cache), UNUSABLE) == str(full_cache / "x.pth")
    assert names(full_cache) == ["x.pth"]


_HIT = """
import sys
import linnaeus.resolving
from linnaeus.config import BucketConfig
linnaeus.resolving.resolve_in(sys.argv[1], sys.argv[2], BucketConfig(ENABLED=True, REMOTE="no"))
heavy = {"linnaeus.resolving._fetch", "linnaeus.remote", "linnaeus.files", "linnaeus.pth", "torch"}
sys.exit(" ".join(sorted(heavy & set(sys.modules))) or 0)
"""


def test_a_hit_imports_no_part_of_fetching(full_cache):
    """A fresh process that finds the file loads neither torch nor the rooms that download."""
    source = str(Path(linnaeus.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _HIT, "x.pth", full_cache],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_absolute_path_is_used_if_it_exists(checkpoint_file, cache):
    """The file itself is returned, wherever it is, and neither cache nor bucket is looked at."""
    found = []
    calls = system_calls(lambda: found.append(resolve_in(str(checkpoint_file), str(cache), UNUSABLE)))
    assert (found, calls) == ([str(checkpoint_file)], ["stat"])


def test_an_absolute_path_that_does_not_exist_is_an_error(checkpoint_file, cache):
    """It is not searched for elsewhere, and the error names what is nearest there."""
    cache.mkdir()
    (cache / "y.pth").write_bytes(b"content")
    missing = checkpoint_file.with_name("xx.pth")
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in(str(missing), str(cache), UNUSABLE)
    assert caught.value.identifier == str(missing)
    assert caught.value.places == ["there is no such file"]
    assert caught.value.nearest == [str(checkpoint_file)]


def test_a_miss_without_a_bucket_names_both_places_and_the_nearest_names(full_cache):
    """The error tells the cache, that the bucket is disabled, and what it may have meant."""
    (full_cache / ".x.path.hidden").touch()
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.path", str(full_cache), DISABLED)
    error = caught.value
    assert error.identifier == "x.path"
    assert error.places == [
        f"not in the cache {full_cache}",
        "the bucket is disabled (ENV.INPUT.BUCKET.ENABLED is false)",
    ]
    assert error.nearest == ["x.pth"]
    for part in ("'x.path'", str(full_cache), "ENABLED", "Nearest: x.pth", "linnaeus ls"):
        assert part in str(error)


def test_a_cache_that_is_not_there_is_said_so(cache):
    """A mistyped CACHE_DIR is told from an empty one, and not made."""
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve_in("x.pth", str(cache), DISABLED)
    assert caught.value.places[0] == f"the cache {cache} does not exist"
    assert not cache.exists()


def test_the_cache_is_flat(full_cache):
    """A file of that name deeper in the cache is another file."""
    (full_cache / "deep").mkdir()
    (full_cache / "deep" / "y.pth").write_bytes(b"other")
    with pytest.raises(CheckpointNotFoundError):
        resolve_in("y.pth", str(full_cache), DISABLED)


def test_a_link_in_the_cache_is_as_good_as_a_file(full_cache, checkpoint_file):
    """Checkpoints kept elsewhere can be linked into the cache."""
    (full_cache / "y.pth").symlink_to(checkpoint_file)
    assert resolve_in("y.pth", str(full_cache), UNUSABLE) == str(full_cache / "y.pth")


@pytest.mark.parametrize("bucket", [DISABLED, UNUSABLE])
def test_what_stands_in_the_way_is_an_error_of_its_own(full_cache, bucket):
    """A directory, a link to nothing and a link to itself are neither used nor downloaded over."""
    (full_cache / "directory.pth").mkdir()
    (full_cache / "nothing.pth").symlink_to("/nowhere/x.pth")
    (full_cache / "circle.pth").symlink_to("circle.pth")
    for name in ("directory.pth", "nothing.pth", "circle.pth"):
        for identifier in (name, str(full_cache / name)):
            with pytest.raises(CheckpointInvalidError) as caught:
                resolve_in(identifier, str(full_cache), bucket)
            assert caught.value.path == str(full_cache / name)
            assert caught.value.advice or name == "circle.pth"


@pytest.mark.parametrize("identifier", [None, 5, b"x.pth", object()])
def test_what_is_no_text_and_no_path_names_nothing(cache, identifier):
    """Both doors say so in the words of the project."""
    cfg = Config.from_plain({"ENV": {"INPUT": {"CACHE_DIR": str(cache)}}})
    for act in (lambda: resolve(identifier, cfg), lambda: resolve_checkpoint_path(identifier, str(cache))):
        with pytest.raises(IdentifierError, match="neither text nor a path"):
            act()


@pytest.mark.parametrize("directory", [5, b"cache", object()])
def test_what_is_no_directory_is_no_cache(directory):
    """An error that names the argument."""
    with pytest.raises(ConfigError, match="cache_dir"):
        resolve_checkpoint_path("x.pth", directory)


def test_an_empty_file_is_damaged(full_cache):
    """A file of no bytes is never handed out, and never silently replaced."""
    (full_cache / "empty.pth").touch()
    with pytest.raises(CorruptCheckpointError, match="empty"):
        resolve_in("empty.pth", str(full_cache), UNUSABLE)


def test_resolve_takes_a_configuration_and_gives_a_path(full_cache):
    """`linnaeus.resolve` reads ENV.INPUT and returns a pathlib.Path; names may be paths themselves."""
    cfg = Config.from_plain({"ENV": {"INPUT": {"CACHE_DIR": str(full_cache)}}})
    assert linnaeus.resolve is resolve
    assert resolve("x.pth", cfg) == full_cache / "x.pth"
    assert resolve(full_cache / "x.pth", cfg) == full_cache / "x.pth"
