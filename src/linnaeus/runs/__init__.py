"""A run's directory: how its checkpoints are named, and which there are.

Everything is read from the files themselves, so nothing can be out of step with them. Torch is not needed.
"""

from linnaeus.runs._listing import RunCheckpoint, checkpoint_of, list_checkpoints, read_checkpoint
from linnaeus.runs._names import (
    BEST_LINK,
    LATEST_LINK,
    REPORT_NAME,
    SHARDED_SUFFIX,
    checkpoint_name,
    numbers_in_name,
)
from linnaeus.runs._pins import PIN_SUFFIX, is_pinned, set_pin

__all__ = [
    "BEST_LINK",
    "LATEST_LINK",
    "PIN_SUFFIX",
    "REPORT_NAME",
    "SHARDED_SUFFIX",
    "RunCheckpoint",
    "checkpoint_name",
    "checkpoint_of",
    "is_pinned",
    "list_checkpoints",
    "numbers_in_name",
    "read_checkpoint",
    "set_pin",
]
