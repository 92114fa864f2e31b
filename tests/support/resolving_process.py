"""A process that resolves, fetches or uploads one file and says what came of it.

Run as `python -m support.resolving_process`: it prints "ready", waits for a line that holds the task as JSON,
and prints the outcome as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linnaeus.config import BucketConfig
from linnaeus.errors import LinnaeusError
from linnaeus.remote import open_remote
from linnaeus.resolving import _single_flight, resolve_in

from .directories import tree


class NoLock:
    """What a lock is on a filesystem that carries none: nothing."""

    def __init__(self, path: Path, *, on_wait: Callable[[], None]) -> None:
        pass

    def __enter__(self) -> NoLock:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def act(task: dict[str, Any]) -> str:
    """Do the task and return the path of what it made."""
    bucket = BucketConfig(**task["bucket"])
    place = Path(task["cache"], task["name"])
    if task["action"] == "resolve":
        return resolve_in(task["name"], task["cache"], bucket)
    if task["action"] == "fetch":
        open_remote(bucket).fetch(task["name"], place)
    if task["action"] == "send":
        open_remote(bucket).send(place, task["name"])
    return str(place)


def outcome(task: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the task, and which files are in the cache afterwards."""
    try:
        told: dict[str, Any] = {"path": act(task)}
    except LinnaeusError as error:
        told = {"error": type(error).__name__, "fields": error.fields(), "text": str(error)}
    return told | {"left": tree(Path(task["cache"]))}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve one task."""
    _say("ready")
    task = json.loads(sys.stdin.readline())
    if not task["locks"]:
        setattr(_single_flight, "Lock", NoLock)  # noqa: B010 - the seam is private to its room
    if task["log"] is not None:
        logging.basicConfig(filename=task["log"], level=logging.DEBUG)
    _say(json.dumps(outcome(task), default=str))


if __name__ == "__main__":
    main()
