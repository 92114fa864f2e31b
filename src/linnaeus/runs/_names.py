"""The names of a run's files. Pure."""

from __future__ import annotations

import re

LATEST_LINK = "latest.pth"
BEST_LINK = "best.pth"
# For directories of shards the links have this in place of their suffix.
SHARDED_SUFFIX = ".sharded"
# What pretrained weights arrived in the run's model, for people and their programs.
REPORT_NAME = "load_report.json"

_OURS = re.compile(r"checkpoint_epoch_(?P<epoch>[0-9]+)(?:_step_(?P<step>[0-9]+))?\.(?:pth|sharded)")
_EARLIER = re.compile(r"ckpt_epoch_(?P<epoch>[0-9]+)\.pth")


def checkpoint_name(epoch: int, step: int | None = None, form: str = "pth") -> str:
    """Return the name for a run's state after `epoch` completed epochs, or at `step` inside the next one.

    Args:
        epoch: How many.
        step: Optimizer steps; None at the end of an epoch.
        form: "pth" or "sharded".
    """
    inside = "" if step is None else f"_step_{step}"
    return f"checkpoint_epoch_{epoch}{inside}.{form}"


def numbers_in_name(name: str) -> tuple[int, int] | None:
    """Return the (epoch, step) that a checkpoint's name tells, or None for other names.

    A name without a step tells step 0. Earlier linnaeus versions counted epochs from 0.
    """
    ours = _OURS.fullmatch(name)
    if ours:
        return int(ours["epoch"]), int(ours["step"] or 0)
    earlier = _EARLIER.fullmatch(name)
    if earlier:
        return int(earlier["epoch"]) + 1, 0
    # Earlier versions keep the newest state in a real file of this name; ours is a link.
    return (0, 0) if name == LATEST_LINK else None
