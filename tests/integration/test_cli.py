"""The commands as people run them: real processes, a real rclone, a real terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import linnaeus as library
from linnaeus.files import file_digest
from support.b2_server import B2Server
from support.directories import names, tree
from support.processes import wait_until
from support.program import PROGRAM, environment, in_terminal, linnaeus

_SCRIPT = Path(__file__).parents[2] / "tools" / "scripts" / "upload_checkpoints.sh"


def _bucket(directory: Path) -> Sequence[str]:
    """Return the options that make a directory the bucket."""
    return _set(f"NAME={directory}", "REMOTE=:local:", "ENABLED=true", "RETRIES=1")


def _b2(server: B2Server) -> Sequence[str]:
    return _set(f"ENDPOINT={server.endpoint}", "ENABLED=true", "RETRIES=1", "IDLE_TIMEOUT_SECONDS=30")


def _set(*keys: str) -> Sequence[str]:
    return [part for key in keys for part in ("--set", f"ENV.INPUT.BUCKET.{key}")]


def _cache(directory: Path) -> Sequence[str]:
    return ["--set", f"ENV.INPUT.CACHE_DIR={directory}"]


@pytest.fixture
def unsafe_file(tmp_path: Path) -> Path:
    """Return a checkpoint that asks for code."""
    import torch

    path = tmp_path / "unsafe.pth"
    torch.save({"model": torch.zeros(3), "evil": _Evil()}, path)
    return path


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was_executed",)


# resolve


def test_resolve_prints_the_path_alone(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """`$(linnaeus resolve x.pth)` is the absolute path of the fetched file, also with a relative cache."""
    ended = linnaeus("resolve", "x.pth", *_bucket(local_bucket), *_cache(Path("cache")), cwd=tmp_path)
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
    arguments = ["resolve", "x.pth", *_bucket(local_bucket), *_cache(cache)]
    ended = in_terminal(*arguments, cwd=tmp_path, columns=100, stdout=out, RCLONE_BWLIMIT="100k")
    assert (ended.code, ended.out) == (0, f"{cache / 'x.pth'}\n")
    assert "x.pth" in ended.err
    assert " kB" in ended.err
    assert "/s" in ended.err
    assert "0:00:" in ended.err


def test_resolve_tells_what_it_does_when_asked(tmp_path: Path, cache: Path, local_bucket: Path) -> None:
    """With -v, before or after the command's name, acts are told on standard error."""
    arguments = ["x.pth", *_bucket(local_bucket), *_cache(cache)]
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
    upload = ["upload", checkpoint_file, *_bucket(local_bucket)]
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
    arguments = ["upload", bad, tmp_path / "missing.pth", good, *_bucket(local_bucket), "--json"]
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
    off = _set("ENABLED=false")
    assert linnaeus("upload", "y.pth", *_bucket(local_bucket), *off, cwd=tmp_path).code == 0
    assert names(local_bucket / "modelZoo") == ["x.pth", "y.pth"]


def test_the_upload_script_is_a_thin_call(tmp_path: Path, checkpoint_file: Path, local_bucket: Path) -> None:
    """The documented script uploads with the same options, and shows its usage without arguments."""
    shutil.move(checkpoint_file, tmp_path / "a b.pth")
    path = {"PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [_SCRIPT, "a b.pth", *_bucket(local_bucket)],
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


# ls


def test_ls_lists_the_cache_and_marks_what_is_damaged(
    tmp_path: Path, cache: Path, checkpoint_file: Path, unsafe_file: Path
) -> None:
    """Each file has its size, kind and epoch; damaged, foreign and unsafe ones have their problem."""
    cache.mkdir()
    library.save({"epoch": 7}, cache / "ours.pth", about={"epoch": 7, "step": 70})
    shutil.copy(checkpoint_file, cache / "theirs.pth")
    shutil.copy(unsafe_file, cache / "unsafe.pth")
    (cache / "cut.pth").write_bytes(checkpoint_file.read_bytes()[:1000])
    (cache / ".linnaeus").mkdir()
    ended = linnaeus("ls", *_cache(cache), cwd=tmp_path)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    size = (cache / "ours.pth").stat().st_size / 1000
    assert lines[0] == "name size kind epoch step"
    assert lines[1] == "cut.pth 1.00 kB"
    assert lines[2].startswith("damaged: ")
    assert f"ours.pth {size:.2f} kB linnaeus 7 70" in lines
    assert "theirs.pth 302 kB torch.save 3" in lines
    assert any(line.startswith("unsafe: asks for ") and line.endswith(".system") for line in lines)
    assert lines[-1].startswith("4 files, ")
    assert lines[-1].endswith(f" in {cache}")


def test_ls_lists_a_run_newest_first(tmp_path: Path) -> None:
    """A run's checkpoints stand newest first with epoch, step and metrics; the best one is marked."""
    run = tmp_path / "runs" / "a" / "checkpoints"
    run.mkdir(parents=True)
    for epoch in (2, 10):
        about = {"epoch": epoch, "step": epoch * 5, "metrics": {"loss": 1 / epoch}}
        library.save({"epoch": epoch}, run / f"checkpoint_epoch_{epoch}.pth", about=about)
    (run / "checkpoint_epoch_11.pth").write_bytes(b"PK\x03\x04 and no more")
    (run / "best.pth").symlink_to("checkpoint_epoch_2.pth")
    (run / "latest.pth").symlink_to("checkpoint_epoch_10.pth")
    listed = json.loads(linnaeus("ls", run, "--json", cwd=tmp_path).out)["checkpoints"]
    assert [(c["name"], c["epoch"], c["best"]) for c in listed] == [
        ("checkpoint_epoch_11.pth", 11, False),
        ("checkpoint_epoch_10.pth", 10, False),
        ("checkpoint_epoch_2.pth", 2, True),
    ]
    assert [c["problem"] is None for c in listed] == [False, True, True]
    assert listed[1]["metrics"] == {"loss": 0.1}
    shown = linnaeus("ls", run.parent, cwd=tmp_path).out.splitlines()
    assert shown[1].split() == ["checkpoint_epoch_11.pth", "11", "16", "B"]
    assert shown[2].startswith("    damaged: ")
    assert shown[3].split()[:3] == ["checkpoint_epoch_10.pth", "10", "50"]
    assert shown[4] == "    loss 0.1"
    assert shown[5].split()[-1] == "best"


def test_ls_lists_the_bucket(
    tmp_path: Path, cache: Path, local_bucket: Path, checkpoint_bytes: bytes
) -> None:
    """The bucket's files are listed with size, time, and whether the cache holds them too."""
    cache.mkdir()
    for name in ("y.pth", "z.pth"):
        (local_bucket / "modelZoo" / name).write_bytes(checkpoint_bytes)
    (cache / "x.pth").write_bytes(checkpoint_bytes)
    (cache / "y.pth").write_bytes(b"other")
    arguments = ["ls", "--remote", *_bucket(local_bucket), *_set("ENABLED=false"), *_cache(cache)]
    listed = json.loads(linnaeus(*arguments, "--json", cwd=tmp_path).out)
    assert [(c["name"], c["in_cache"]) for c in listed["checkpoints"]] == [
        ("x.pth", "yes"),
        ("y.pth", "other size"),
        ("z.pth", "no"),
    ]
    assert all(c["size_bytes"] == len(checkpoint_bytes) and c["modified"] for c in listed["checkpoints"])
    shown = linnaeus(*arguments, cwd=tmp_path).out.splitlines()
    assert shown[0].split() == ["name", "size", "modified", "(UTC)", "in", "cache"]
    assert shown[-1] == f"3 files, 905 kB in directory {local_bucket}/modelZoo"


def test_ls_of_nothing(tmp_path: Path, cache: Path) -> None:
    """An empty place is said to be empty; a directory that is not there is an error."""
    assert linnaeus("ls", *_cache(cache), cwd=tmp_path).out == f"no checkpoints in {cache}\n"
    missing = linnaeus("ls", "nowhere", cwd=tmp_path)
    assert (missing.code, missing.out) == (3, "")


# inspect


def test_inspect_shows_what_a_checkpoint_says_of_itself(tmp_path: Path) -> None:
    """Epoch, step, metrics, origin and tensors by module are shown, without unpickling or loading."""
    import torch

    state = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": {"m": torch.zeros(8), "v": torch.zeros(8)},
    }
    report = {"coverage": 0.987, "sources": [{"identifier": "a.pth"}, {"identifier": "b.pth"}]}
    about = {
        "epoch": 3,
        "step": 120,
        "step_in_epoch": 20,
        "metrics": {"loss": float("nan"), "accuracy": 0.5},
        "lineage": {"resumed_from": "old.pth", "pretrained": report},
        "config_digest": "0123456789abcdef0123",
    }
    library.save(state, tmp_path / "c.pth", about=about)
    ended = linnaeus("inspect", "c.pth", cwd=tmp_path)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    for expected in (
        "kind linnaeus",
        "epoch 3",
        "step 120 (20 in the epoch under way)",
        "metrics loss NaN, accuracy 50.0 %",
        "resumed from old.pth",
        "pretrained a.pth and b.pth (98.7 % arrived)",
        "keys model, optimizer",
        "tensors 4 tensors, 24 elements, 96 B",
        "model 2 tensors float32 8 32 B",
        "weight 2 x 3 float32 6 24 B",
        "optimizer 2 tensors, see --all float32 16 64 B",
        "total 4 tensors float32 24 96 B",
    ):
        assert expected in lines
    assert "m 8 float32 8 32 B" in [
        " ".join(line.split())
        for line in linnaeus("inspect", "--all", "c.pth", cwd=tmp_path).out.splitlines()
    ]
    plain = json.loads(linnaeus("inspect", "--json", "c.pth", cwd=tmp_path).out)
    assert plain["about"]["step"] == 120
    assert [tensor["name"] for tensor in plain["tensors"]] == [
        "model.weight",
        "model.bias",
        "optimizer.m",
        "optimizer.v",
    ]


def test_inspect_shows_what_can_be_shown_of_an_unsafe_file(tmp_path: Path, unsafe_file: Path) -> None:
    """An unsafe file is described, its globals are named, nothing is executed, and the exit code is 7."""
    for arguments in (["inspect", unsafe_file], ["inspect", "--json", unsafe_file]):
        ended = linnaeus(*arguments, cwd=tmp_path)
        assert ended.code == 7
        assert "model" in ended.out
        assert f"{os.system.__module__}.system" in ended.err
    assert names(tmp_path) == ["unsafe.pth"]


def test_inspect_and_verify_resolve_bare_names(
    tmp_path: Path, cache: Path, local_bucket: Path, checkpoint_file: Path
) -> None:
    """FILE may be a name as for resolve; a file of that name here comes first."""
    options = [*_bucket(local_bucket), *_cache(cache)]
    assert str(cache / "x.pth") in linnaeus("inspect", "x.pth", *options, cwd=tmp_path).out
    (tmp_path / "x.pth").write_bytes(b"not a checkpoint")
    assert linnaeus("verify", "x.pth", *options, cwd=tmp_path).code == 6
    assert linnaeus("verify", "made/none.pth", *options, cwd=tmp_path).code == 3
    assert linnaeus("verify", checkpoint_file, *options, cwd=tmp_path).code == 0


# verify


def test_verify_names_the_damaged_tensor(tmp_path: Path, checkpoint_file: Path, unsafe_file: Path) -> None:
    """One line for each file says whether it is good; the exit code is that of the worst."""
    damaged = tmp_path / "damaged.pth"
    content = bytearray(checkpoint_file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    ended = linnaeus("verify", checkpoint_file, damaged, "none.pth", cwd=tmp_path)
    good, bad = ended.out.splitlines()
    assert good == f"ok  {checkpoint_file} (torch.save, 302 kB, 1 tensor; every byte checked)"
    assert bad.startswith("BAD ")
    assert "tensor model.weight" in bad
    assert "none.pth" in ended.err
    assert ended.code == 6
    assert linnaeus("verify", "--structure", damaged, cwd=tmp_path).code == 0
    worst = linnaeus("verify", "--json", unsafe_file, damaged, checkpoint_file, cwd=tmp_path)
    assert worst.code == 7
    assert [entry["exit_code"] for entry in json.loads(worst.out)] == [7, 6, 0]


# train


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


# the program as a whole


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
    third = _cache(tmp_path / "third")
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
        [PROGRAM, "resolve", "x.pth", *_b2(b2), *_cache(cache)],
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
    ended = in_terminal("ls", *_cache(cache), cwd=tmp_path, columns=columns, NO_COLOR="1")
    assert name in ended.out.replace("\n", "")


def test_a_pipe_has_no_width(tmp_path: Path, cache: Path) -> None:
    """Where there is no terminal, a row is one line, however long."""
    cache.mkdir()
    name = f"{'long_' * 40}.pth"
    library.save({"epoch": 1}, cache / name)
    assert linnaeus("ls", *_cache(cache), cwd=tmp_path).out.splitlines()[1].split()[0::3] == [
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
        ended = linnaeus(*arguments, *_cache(cache), cwd=tmp_path)
        assert ended.code == 0
        assert "\x1b" not in ended.out
        assert "\x07" not in ended.out
        assert "[red]" in ended.out


def test_no_secret_is_shown(tmp_path: Path, cache: Path, b2: B2Server) -> None:
    """Whatever fails, however much is told, no credential is in what the program prints."""
    wrong = "K001aWrongKeyIsSecretToo"
    for extra in (["--debug"], ["-v"], []):
        arguments = ["resolve", "x.pth", *_b2(b2), *_cache(cache), *extra]
        ended = linnaeus(*arguments, cwd=tmp_path, B2_APPLICATION_KEY=wrong)
        assert ended.code == 4
        assert wrong not in ended.err + ended.out
        assert b2.key_id not in ended.err + ended.out


def test_uploaded_bytes_are_the_same(
    tmp_path: Path, checkpoint_file: Path, b2: B2Server, cache: Path
) -> None:
    """Up to a real B2 interface and down again, a checkpoint is the same byte for byte."""
    shutil.move(checkpoint_file, tmp_path / "new.pth")
    assert linnaeus("upload", "new.pth", *_b2(b2), cwd=tmp_path).code == 0
    fetched = linnaeus("resolve", "new.pth", *_b2(b2), *_cache(cache), cwd=tmp_path).out.strip()
    assert file_digest(Path(fetched), "sha256") == file_digest(tmp_path / "new.pth", "sha256")
