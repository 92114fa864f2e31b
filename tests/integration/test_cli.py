"""The program as a whole as people run it: real processes, a real rclone, a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import linnaeus as library
from support.b2_server import B2Server
from support.directories import tree
from support.processes import wait_until
from support.program import (
    PROGRAM,
    b2_options,
    cache_options,
    environment,
    in_terminal,
    linnaeus,
)


def test_train_shows_its_epochs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """A line for each epoch, the final accuracy, where the checkpoint is; and the same command goes on."""
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    train = ["train", "--config", config, "--set", "DATA.SHIFT=0"]
    first = linnaeus(*train, "--set", "TRAIN.EPOCHS=1", cwd=tmp_path)
    assert (first.code, first.err) == (0, "")
    lines = first.out.splitlines()
    saved = tmp_path / "runs" / "quickstart" / "checkpoints" / "checkpoint_epoch_1.pth"
    assert lines[0].startswith("fresh start: ")
    assert lines[1].startswith("epoch 1/1  loss ")
    assert "accuracy_digit" in lines[1]
    assert lines[1].endswith("checkpoint_epoch_1.pth")
    assert lines[2].startswith("done: loss ")
    assert lines[3] == f"checkpoint: {saved}"
    assert lines[4] == f"look inside: linnaeus inspect {saved}"
    again = in_terminal(*train, "--set", "TRAIN.EPOCHS=2", cwd=tmp_path, columns=200)
    assert again.code == 0
    assert f"{saved} at epoch 1, step " in again.out
    assert "\x1b[2K\x1b[1mepoch \x1b[0m2/2  loss " in again.out  # the bar is erased before the line
    assert "epoch 1/2" not in again.out


def test_the_config_here_is_read_unless_another_is_named(
    tmp_path: Path, cache: Path, local_bucket: Path
) -> None:
    """./linnaeus.yaml is the default config, --config names another, --set wins over both."""
    text = "ENV: {{INPUT: {{CACHE_DIR: '{}', BUCKET: {{ENABLED: true, NAME: '{}', REMOTE: ':local:'}}}}}}\n"
    (tmp_path / "linnaeus.yaml").write_text(text.format(cache, local_bucket))
    (tmp_path / "other.yaml").write_text(text.format(tmp_path / "other", local_bucket))
    assert linnaeus("resolve", "x.pth", cwd=tmp_path).out == f"{cache}/x.pth\n"
    other = linnaeus("resolve", "x.pth", "--config", "other.yaml", cwd=tmp_path)
    assert other.out == f"{tmp_path}/other/x.pth\n"
    third = cache_options(tmp_path / "third")
    set_too = linnaeus("resolve", "x.pth", "--config", "other.yaml", *third, cwd=tmp_path)
    assert set_too.out == f"{tmp_path}/third/x.pth\n"


def test_an_older_spelling_is_one_plain_line(tmp_path: Path, checkpoint_file: Path) -> None:
    """A warning is a line on standard error that names both spellings, without file names and code."""
    ended = linnaeus("resolve", checkpoint_file, "--set", "MODEL.RESUME=a.pth", cwd=tmp_path)
    assert ended.code == 0
    assert ended.err == "warning: config MODEL.RESUME is an older spelling of TRAIN.RESUME\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path, checkpoint_file: Path) -> None:
    """When the reader goes away, as `head` does, the program ends without a word."""
    for arguments in (
        ["inspect", checkpoint_file],
        ["ls"],
        ["ls", "--json"],
        ["--help"],
        ["resolve", checkpoint_file],
    ):
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run(
            [PROGRAM, *arguments],
            cwd=tmp_path,
            env=environment(tmp_path, {}),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
        assert (process.returncode, process.stderr) == (141, b"")


def test_closed_streams_are_no_error(tmp_path: Path, checkpoint_file: Path) -> None:
    """Without standard streams, as some schedulers start programs, a command works as with them."""
    for closed in ("<&- >&- 2>&-", ">&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$0" convert "$1" new.pth --force {closed}', PROGRAM, checkpoint_file],
            cwd=tmp_path,
            env=environment(tmp_path, {}),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert library.verify(tmp_path / "new.pth").ok


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    """What a library prints would end up in the checkpoint that is being written."""
    code = "import os, linnaeus.cli as c; c.main(['--version']); os._exit(os.open('/', 0))"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=False)
    assert done.returncode > 2


def test_an_interrupt_leaves_nothing_half_done(tmp_path: Path, cache: Path, b2: B2Server) -> None:
    """Ctrl-C during a download ends with 130, one line, and nothing in the cache."""
    b2.fault("download", "stall")
    process = subprocess.Popen(
        [PROGRAM, "resolve", "x.pth", *b2_options(b2), *cache_options(cache)],
        cwd=tmp_path,
        env=environment(tmp_path, {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: b2.count("download") > 0)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "error: interrupted\n")
    assert [path for path in tree(cache) if not path.endswith(".lock")] == []


def test_a_terminal_that_wants_no_colour_gets_none(tmp_path: Path, checkpoint_file: Path) -> None:
    """Colours are shown on a terminal, and not where NO_COLOR is set or there is no terminal."""
    colour = "\x1b[32m"
    coloured = in_terminal("verify", checkpoint_file, cwd=tmp_path, columns=200)
    assert "\x1b[1;32m" in coloured.out
    assert colour not in in_terminal("verify", checkpoint_file, cwd=tmp_path, NO_COLOR="1").out.replace(
        "1;", ""
    )
    assert "\x1b" not in linnaeus("verify", checkpoint_file, cwd=tmp_path).out


@pytest.mark.parametrize("columns", [24, 60])
def test_a_narrow_terminal_shows_every_name_whole(tmp_path: Path, cache: Path, columns: int) -> None:
    """Nothing is cut off on a narrow terminal."""
    cache.mkdir()
    name = "ropevit_base_patch16_224_with_a_rather_long_name.pth"
    library.save({"epoch": 1}, cache / name)
    ended = in_terminal("ls", *cache_options(cache), cwd=tmp_path, columns=columns, NO_COLOR="1")
    assert name in ended.out.replace("\n", "")


def test_a_pipe_has_no_width(tmp_path: Path, cache: Path) -> None:
    """Where there is no terminal, a row is one line, however long."""
    cache.mkdir()
    name = f"{'long_' * 40}.pth"
    library.save({"epoch": 1}, cache / name)
    assert linnaeus("ls", *cache_options(cache), cwd=tmp_path).out.splitlines()[1].split()[0::3] == [
        name,
        "linnaeus",
    ]


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path, cache: Path) -> None:
    """Escape sequences and markup in file names and tensor names reach no terminal."""
    import torch

    cache.mkdir()
    file = cache / "[red]\x1b[2Jx.pth"
    torch.save({"t\x1b]0;title\x07[bold]": torch.zeros(1)}, file)
    for arguments in (
        ["ls"],
        ["inspect", file],
        ["verify", file],
        ["ls", "--json"],
        ["inspect", "--json", file],
    ):
        ended = linnaeus(*arguments, *cache_options(cache), cwd=tmp_path)
        assert ended.code == 0
        assert "\x1b" not in ended.out
        assert "\x07" not in ended.out
        assert "[red]" in ended.out


def test_no_secret_is_shown(tmp_path: Path, cache: Path, b2: B2Server) -> None:
    """Whatever fails, however much is told, no credential is in what the program prints."""
    wrong = "K001aWrongKeyIsSecretToo"
    for extra in (["--debug"], ["-v"], []):
        arguments = ["resolve", "x.pth", *b2_options(b2), *cache_options(cache), *extra]
        ended = linnaeus(*arguments, cwd=tmp_path, B2_APPLICATION_KEY=wrong)
        assert ended.code == 4
        assert wrong not in ended.err + ended.out
        assert b2.key_id not in ended.err + ended.out
