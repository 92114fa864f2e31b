"""`linnaeus resolve` and `upload` as people run them: real processes, a real rclone, a real terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from linnaeus.files import file_digest
from support.b2_server import B2Server
from support.directories import names
from support.program import (
    PROGRAM,
    b2_options,
    bucket_options,
    cache_options,
    directory_options,
    environment,
    in_terminal,
    linnaeus,
)

_SCRIPT = Path(__file__).parents[2] / "tools" / "scripts" / "upload_checkpoints.sh"


# resolve


def test_resolve_prints_the_path_alone(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """`$(linnaeus resolve x.pth)` is the absolute path of the fetched file, also with a relative cache."""
    ended = linnaeus(
        "resolve", "x.pth", *directory_options(local_bucket), *cache_options(Path("cache")), cwd=tmp_path
    )
    assert (ended.code, ended.out, ended.err) == (0, f"{cache / 'x.pth'}\n", "")
    assert (cache / "x.pth").read_bytes() == (local_bucket / "modelZoo" / "x.pth").read_bytes()


def test_resolve_takes_any_name_that_the_system_takes(tmp_path: Path, checkpoint_file: Path) -> None:
    """A path that is no valid UTF-8 and has blanks comes out as it went in."""
    odd = os.fsencode(tmp_path) + b"/a b\xff.pth"
    shutil.copy(checkpoint_file, odd)
    done = subprocess.run(
        [PROGRAM, "resolve", odd],
        cwd=tmp_path,
        env=environment(tmp_path, {}),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, odd + b"\n", b"")


def test_resolve_shows_its_progress_on_a_terminal_only(
    tmp_path: Path, cache: Path, local_bucket: Path
) -> None:
    """The bar is on standard error, with bytes, rate and time left; standard output stays the path alone."""
    out = tmp_path / "out"
    arguments = ["resolve", "x.pth", *directory_options(local_bucket), *cache_options(cache)]
    ended = in_terminal(*arguments, cwd=tmp_path, columns=100, stdout=out, RCLONE_BWLIMIT="100k")
    assert (ended.code, ended.out) == (0, f"{cache / 'x.pth'}\n")
    assert "x.pth" in ended.err
    assert " kB" in ended.err
    assert "/s" in ended.err
    assert "0:00:" in ended.err


def test_resolve_tells_what_it_does_when_asked(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """With -v, before or after the command's name, acts are told on standard error."""
    arguments = ["x.pth", *directory_options(local_bucket), *cache_options(cache)]
    ended = linnaeus("resolve", *arguments, "-v", cwd=tmp_path)
    assert "fetched x.pth" in ended.err
    shutil.rmtree(cache)
    ended = linnaeus("--verbose", "resolve", *arguments, cwd=tmp_path)
    assert "fetched x.pth" in ended.err
    assert ended.out == f"{cache / 'x.pth'}\n"


def test_resolve_as_json(tmp_path: Path, checkpoint_file: Path) -> None:
    """The JSON form names the identifier, the path and the size."""
    ended = linnaeus("resolve", "--json", checkpoint_file, cwd=tmp_path)
    assert json.loads(ended.out) == {
        "identifier": str(checkpoint_file),
        "path": str(checkpoint_file),
        "size_bytes": checkpoint_file.stat().st_size,
    }


# upload


def test_upload_and_again_and_other_content(
    tmp_path: Path, checkpoint_file: Path, local_bucket: Path, other_checkpoint_bytes: bytes
) -> None:
    """A file is sent once; other content under its name is refused without --force, and replaced with it."""
    there = local_bucket / "modelZoo" / "x.pth"
    there.unlink()
    upload = ["upload", checkpoint_file, *directory_options(local_bucket)]
    assert linnaeus(*upload, cwd=tmp_path).out.startswith("uploaded: x.pth in directory ")
    assert linnaeus(*upload, cwd=tmp_path).out.startswith("there already: x.pth in directory ")
    there.write_bytes(other_checkpoint_bytes)
    refused = linnaeus(*upload, cwd=tmp_path)
    assert (refused.code, refused.out) == (1, "")
    assert "not replaced: upload of x.pth" in refused.err
    assert "--force" in refused.err
    assert there.read_bytes() == other_checkpoint_bytes
    assert linnaeus(*upload, "--force", cwd=tmp_path).code == 0
    assert there.read_bytes() == checkpoint_file.read_bytes()


def test_upload_sends_the_others_when_one_fails(
    tmp_path: Path, checkpoint_file: Path, local_bucket: Path
) -> None:
    """Every file is tried, every failure is told, and the exit code is that of the first."""
    bad = tmp_path / "bad.pth"
    bad.write_bytes(checkpoint_file.read_bytes()[:1000])
    good = tmp_path / "good.pth"
    shutil.copy(checkpoint_file, good)
    arguments = ["upload", bad, tmp_path / "missing.pth", good, *directory_options(local_bucket), "--json"]
    ended = linnaeus(*arguments, cwd=tmp_path)
    assert ended.code == 6
    assert [entry["ok"] for entry in json.loads(ended.out)] == [False, False, True]
    assert [entry.get("exit_code") for entry in json.loads(ended.out)] == [6, 3, None]
    assert ended.err.count("error: ") == 2
    assert names(local_bucket / "modelZoo") == ["good.pth", "x.pth"]


def test_upload_ignores_that_the_bucket_is_disabled(
    tmp_path: Path, checkpoint_file: Path, local_bucket: Path
) -> None:
    """ENABLED is about fetching; uploading is asked for by the command itself."""
    shutil.move(checkpoint_file, tmp_path / "y.pth")
    off = bucket_options("ENABLED=false")
    assert linnaeus("upload", "y.pth", *directory_options(local_bucket), *off, cwd=tmp_path).code == 0
    assert names(local_bucket / "modelZoo") == ["x.pth", "y.pth"]


def test_the_upload_script_is_a_thin_call(tmp_path: Path, checkpoint_file: Path, local_bucket: Path) -> None:
    """The documented script uploads with the same options, and shows its usage without arguments."""
    shutil.move(checkpoint_file, tmp_path / "a b.pth")
    path = {"PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [_SCRIPT, "a b.pth", *directory_options(local_bucket)],
        cwd=tmp_path,
        env=environment(tmp_path, path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("uploaded: a b.pth in directory ")
    bare = subprocess.run([_SCRIPT], capture_output=True, text=True, check=False)
    assert (bare.returncode, bare.stdout) == (2, "")
    assert bare.stderr.startswith("usage: ")


def test_uploaded_bytes_are_the_same(
    tmp_path: Path, checkpoint_file: Path, b2: B2Server, cache: Path
) -> None:
    """Up to a real B2 interface and down again, a checkpoint is the same byte for byte."""
    shutil.move(checkpoint_file, tmp_path / "new.pth")
    assert linnaeus("upload", "new.pth", *b2_options(b2), cwd=tmp_path).code == 0
    fetched = linnaeus("resolve", "new.pth", *b2_options(b2), *cache_options(cache), cwd=tmp_path).out.strip()
    assert file_digest(Path(fetched), "sha256") == file_digest(tmp_path / "new.pth", "sha256")
