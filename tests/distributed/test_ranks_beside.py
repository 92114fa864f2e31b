"""Several ranks save while they train: nobody waits for the disk, and all know alike what became of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.torchrun import on_ranks

pytestmark = pytest.mark.slow


def test_nobody_waits_for_a_disk(tmp_path: Path) -> None:
    """While a rank's disk does not answer, runs train on; what is saved is the state at its step."""
    on_ranks(2, tmp_path, "goes_on:fsdp", "goes_on:ddp", "tries_again")
    on_ranks(2, tmp_path, "goes_on:fsdp:sharded", "goes_on:ddp:sharded")


def test_all_follow_the_same_policy(tmp_path: Path) -> None:
    """WHEN_BUSY, ASYNC, ON_FAILURE and CHECK_FINITE do on ranks what they do on one process, on all alike."""
    on_ranks(2, tmp_path, "policies", "refuses_what_is_not_finite", "passes_tensors_on")
    on_ranks(2, tmp_path, "passes_tensors_on:sharded")


@pytest.mark.parametrize("form", ["pth", "sharded"])
@pytest.mark.parametrize(("parallel", "world_size"), [("fsdp", 2), ("ddp", 2), ("fsdp", 4)])
def test_steps_at_random_moments_tear_nothing(
    tmp_path: Path, parallel: str, world_size: int, form: str
) -> None:
    """Whenever optimizers step, each checkpoint is the gathered state of one instant, bit for bit."""
    count = (80 if form == "pth" else 40) // world_size
    on_ranks(world_size, tmp_path, f"steps_at_random:{parallel}:{count}:{form}")


@pytest.mark.parametrize("form", ["pth", "sharded"])
def test_unannounced_changes_on_one_rank_are_never_published(tmp_path: Path, form: str) -> None:
    """They are noticed by versions or checksums, thrown away by all, and saved again by copy.

    Until then the checkpoint before is the newest.
    """
    on_ranks(2, tmp_path, f"is_torn:in_place:{form}", f"is_torn:hidden:{form}")
