"""A save whose process is killed before each of the calls by which it changes files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import linnaeus
from linnaeus.runs import list_checkpoints
from support.file_calls import FileCalls, in_child
from support.small_run import SmallRun, config, train

Prepare: TypeAlias = Callable[[Path], linnaeus.CheckpointManager]


def two_epochs_in(directory: Path, form: str) -> linnaeus.CheckpointManager:
    """Return a manager whose next save writes, links and prunes; the form is "pth" or "sharded"."""
    cfg = config(directory, EPOCHS=3, KEEP_LAST_N=1, KEEP_TOP_N=1, FORMAT=form)
    ckpt = train(cfg, SmallRun(), stop_after=10)
    ckpt._metrics = {"loss": 0.0}
    ckpt.progress = ckpt.progress.after_epoch()
    return ckpt


def recorded(directory: Path, prepare: Prepare) -> list[tuple[str, str]]:
    """Return the file calls of one good save, from a child."""
    notes = directory.parent / "calls.json"

    def act() -> None:
        ckpt = prepare(directory)
        calls = FileCalls(directory)
        ckpt.save()
        calls.disarm()
        notes.write_text(json.dumps(calls.calls))

    directory.parent.mkdir(parents=True, exist_ok=True)
    assert in_child(act) == 0
    return [(call, path) for call, path in json.loads(notes.read_text())]


def killed_before_each(
    calls: list[tuple[str, str]], place: Path, prepare: Prepare
) -> Iterator[tuple[int, Path]]:
    """Do the save again for each of its calls and once more, killed before that call, and never at last.

    Yields:
        The number of the call, and the directory as the killed process left it.
    """
    for number in range(len(calls) + 1):
        directory = place / str(number) / "run"

        def act(directory: Path = directory, number: int = number) -> None:
            ckpt = prepare(directory)
            FileCalls(directory, kill_before=number)
            ckpt.save()

        expected = 0 if number == len(calls) else -signal.SIGKILL
        assert in_child(act) == expected, calls[number : number + 1]
        yield number, directory


def leftovers(directory: Path) -> list[str]:
    """Return what is in the directory beside checkpoints and links."""
    links = {f"{name}.{form}" for name in ("latest", "best") for form in ("pth", "sharded")}
    known = links | {found.path.name for found in list_checkpoints(directory)}
    return sorted({entry.name for entry in directory.iterdir()} - known) if directory.exists() else []
