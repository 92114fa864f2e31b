"""The whole story on real images: train, upload, fetch elsewhere, fine-tune, be killed, resume exactly.

Everything is real: the images, the commands, rclone, the kill. The bucket is a local directory, which rclone
treats as any other remote; with credentials in the environment it would be one on Backblaze B2.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

import linnaeus
from linnaeus.runs import list_checkpoints

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
UPLOAD = ROOT / "tools" / "scripts" / "upload_checkpoints.sh"
NAME = "mFormer_nano_digits.pth"
FINETUNE_EPOCHS = 3
KILL_AT_STEP = 60

console = Console(highlight=False, soft_wrap=True)


def say(number: int, text: str) -> None:
    """Announce a step of the story."""
    console.print(f"\n[bold cyan]{number}.[/] [bold]{text}[/]")


class Machine:
    """A folder that plays a machine: its own config, its own cache, and the commands given there."""

    def __init__(self, home: Path, bucket: Path, **changes: Mapping[str, Any]) -> None:
        self.home = home
        home.mkdir()
        config = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
        for section, values in changes.items():
            config[section] = config.get(section, {}) | dict(values)
        config["ENV"] = {
            "INPUT": {
                "CACHE_DIR": str(home / "cache"),
                "BUCKET": {"ENABLED": True, "REMOTE": ":local:", "NAME": str(bucket)},
            }
        }
        (home / "linnaeus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Show a command as a person would type it here, and start it."""
        console.print(f"[dim]{self.home.name}[/] [green]$[/] {shlex.join(map(str, command))}")
        words = [
            str(Path(sys.executable).with_name("linnaeus")) if w == "linnaeus" else str(w) for w in command
        ]
        # One thread is fastest for images this small, and the same everywhere.
        return subprocess.Popen(words, cwd=self.home, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def run(self, *command: str | Path) -> None:
        """Run a command to its end; leave the demo if it fails."""
        status = self.start(*command).wait()
        if status:
            sys.exit(f"the command ended with status {status}")

    def run_and_kill(self, *command: str | Path, checkpoints: Path, step: int) -> None:
        """Start a command and end it by SIGKILL once there is a checkpoint of that step."""
        with self.start(*command) as child:
            while child.poll() is None and all(found.step < step for found in list_checkpoints(checkpoints)):
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
        newest = list_checkpoints(checkpoints)[0].path.name
        console.print(f"[bold red]killed[/] by SIGKILL; the newest checkpoint is {newest}")


def same_state(first: Path, second: Path) -> bool:
    """Tell whether two checkpoints hold the same weights and optimizer state, bit for bit."""
    a, b = (linnaeus.load(path) for path in (first, second))
    pairs = [(a["model"][name], b["model"][name]) for name in a["model"]]
    for index, state in a["optimizer"]["state"].items():
        pairs += [(value, b["optimizer"]["state"][index][name]) for name, value in state.items()]
    return all(torch.equal(x, y) for x, y in pairs)


def main() -> None:
    """Tell the story in a fresh folder, which is left for a look around."""
    started = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="linnaeus-demo-"))
    bucket = home / "bucket"
    bucket.mkdir()
    console.print(
        f"Two machines and a bucket play in {home}; each machine's settings are in its linnaeus.yaml."
    )

    first = Machine(home / "first-machine", bucket, TRAIN={"EPOCHS": 12})
    run_directory = Path("runs", "quickstart", "checkpoints")
    say(1, "Train a hierarchical classifier on handwritten digits")
    first.run("linnaeus", "train")

    say(2, "See what was kept, and check the best checkpoint to its last byte")
    first.run("linnaeus", "ls", run_directory)
    shutil.copyfile(first.home / run_directory / "best.pth", first.home / NAME)
    first.run("linnaeus", "verify", NAME)

    say(3, "Upload it to the bucket")
    first.run(UPLOAD, NAME)
    first.run("linnaeus", "ls", "--remote")

    say(4, "On another machine, with an empty cache, ask for it by name")
    tuning = {"EPOCHS": FINETUNE_EPOCHS, "LR": 1e-3}
    other = Machine(
        home / "other-machine", bucket, TRAIN=tuning, MODEL={"PRETRAINED": NAME}, DATA={"SHIFT": 1}
    )
    other.run("linnaeus", "resolve", NAME)

    say(5, "Fine-tune from it on images that are moved about at random, and be killed on the way")
    checkpoints = other.home / run_directory
    other.run_and_kill("linnaeus", "train", checkpoints=checkpoints, step=KILL_AT_STEP)

    say(6, "Give the same command again: it goes on where it was")
    other.run("linnaeus", "train")

    say(7, "Do the same without being killed, and compare")
    other.run("linnaeus", "train", "--set", "ENV.OUTPUT.DIRS.CHECKPOINTS=never-killed")
    last = f"checkpoint_epoch_{FINETUNE_EPOCHS}.pth"
    if not same_state(checkpoints / last, other.home / "never-killed" / last):
        sys.exit("the killed run and the whole one ended with different weights")
    seconds = time.monotonic() - started
    console.print(
        "\n[bold green]Bit for bit the same:[/] weights and optimizer state of the killed and the whole run."
    )
    console.print(f"The story took {seconds:.0f} s. All of it is in {home}; remove it when you like.")


if __name__ == "__main__":
    main()
