"""The machine of a run is lost: killed while it copies, its disk gone. The same command goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import linnaeus
from support import program
from support.b2_server import B2Server
from support.buckets import BUCKET
from support.processes import wait_until
from support.trees import same

QUICKSTART = Path(linnaeus.__file__).parents[2] / "configs" / "quickstart.yaml"
PREFIX = "runs/lost/"
LAST = "checkpoint_epoch_3.pth"
SETTINGS = {
    "TRAIN.EPOCHS": 3,
    "TRAIN.BATCH_SIZE": 128,
    "DATA.SHIFT": 1,
    "TRAIN.EMA_DECAY": 0.9,
    "SCHEDULE.CHECKPOINT.INTERVAL_STEPS": 5,
}


def arguments(directory: Path, **bucket: Any) -> list[str]:
    """Return the command that trains in a directory, with a cache of its own beside it."""
    places = {
        "ENV.OUTPUT.DIRS.CHECKPOINTS": directory / "checkpoints",
        "ENV.INPUT.CACHE_DIR": directory / "cache",
    }
    copies = {f"ENV.OUTPUT.BUCKET.{key}": value for key, value in bucket.items()}
    settings = SETTINGS | places | copies
    return [
        "train",
        f"--config={QUICKSTART}",
        *(f"--set={key}={value}" for key, value in settings.items()),
    ]


def final_state(directory: Path) -> Any:
    """Return what the run's last checkpoint holds of the training, which draws from torch alone."""
    saved = linnaeus.load(directory / "checkpoints" / LAST, mmap=False)
    keys = ("model", "optimizer", "lr_scheduler", "ema", "data", "step", "epoch", "metrics")
    return {key: saved[key] for key in keys} | {"rng": saved["rng"]["torch"]}


def there(server: B2Server) -> set[str]:
    """Return the names of the run's copies."""
    return {name.removeprefix(PREFIX) for name in server.objects(BUCKET) if name.startswith(PREFIX)}


def run_until_lost(server: B2Server, directory: Path, command: list[str]) -> set[str]:
    """Start the run, kill it in the middle of an upload, and lose its disk; return what had arrived."""
    server.fault("upload", "stall", name=PREFIX + LAST)  # however fast the machine is, this one never arrives
    environment = program.environment(directory.parent, {})
    with subprocess.Popen(
        [program.PROGRAM, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: bool(there(server)), seconds=300)
        begun = server.count("upload")
        server.fault("upload", "stall")
        wait_until(lambda: server.count("upload") > begun, seconds=300)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(directory)
    server.clear_faults()
    return there(server)


def test_the_same_command_on_a_blank_machine_ends_with_the_same_bits(b2: B2Server, tmp_path: Path) -> None:
    """Killed by SIGKILL in the middle of an upload, directory and cache deleted: nothing shows in the end."""
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    assert program.linnaeus(*arguments(whole), cwd=tmp_path).code == 0
    bucket = {"ENABLED": True, "NAME": BUCKET, "PATH_PREFIX": PREFIX, "ENDPOINT": b2.endpoint}
    command = arguments(lost, **bucket, IDLE_TIMEOUT_SECONDS=30)
    arrived = run_until_lost(b2, lost, command)
    assert arrived
    assert LAST not in arrived
    b2.reset_counts()
    ended = program.linnaeus(*command, "--verbose", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "resumed" in ended.err
    assert any(f"fetched {name} from bucket" in ended.err for name in arrived), ended.err
    assert same(final_state(whole), final_state(lost))
    assert b2.objects(BUCKET)[PREFIX + LAST] == (lost / "checkpoints" / LAST).read_bytes()
    assert all(len(b2.versions(BUCKET, PREFIX + name)) == 1 for name in there(b2))
