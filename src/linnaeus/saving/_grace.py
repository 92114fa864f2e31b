"""Whether a checkpoint can be made between a signal that asks to end and the end."""

from __future__ import annotations


def grace_warning(write_seconds: float, grace_seconds: float) -> str | None:
    """Return what to warn of when a save takes longer than the machine lets a program live after a signal."""
    if write_seconds <= grace_seconds:
        return None
    return (
        f"a save takes {write_seconds:.1f} s, the grace period is {grace_seconds:g} s: a checkpoint made on a"
        " signal may come too late. Ask the scheduler for an earlier signal (EXIT_SIGNALS, GRACE_SECONDS), or"
        " save more often"
    )
