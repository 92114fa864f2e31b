"""Several ranks save while they train: nobody waits for the disk, and all know alike what became of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.torchrun import on_ranks

_FORMS = ("pth", "sharded")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def of_two(directory: Path, *scenarios: str) -> None:
    """Run scenarios on two ranks, which are started once for all of them."""
    on_ranks(2, directory, *scenarios, seconds=280)


def test_nobody_waits_for_a_disk(tmp_path: Path) -> None:
    """While a rank's disk does not answer, runs train on; what is saved is the state at its step."""
    of_two(
        tmp_path, "goes_on:fsdp", "goes_on:ddp", "goes_on:fsdp:sharded", "goes_on:ddp:sharded", "tries_again"
    )


def test_all_follow_the_same_policy(tmp_path: Path) -> None:
    """WHEN_BUSY, ASYNC, ON_FAILURE and CHECK_FINITE do on ranks what they do on one process, on all alike."""
    passes = "passes_tensors_on", "passes_tensors_on:sharded"
    of_two(tmp_path, "policies", "refuses_what_is_not_finite", *passes)


@pytest.mark.parametrize(("parallel", "world_size"), [("fsdp", 2), ("ddp", 2), ("fsdp", 4)])
def test_steps_at_random_moments_tear_nothing(tmp_path: Path, parallel: str, world_size: int) -> None:
    """Whenever optimizers step, each checkpoint is the gathered state of one instant, bit for bit."""
    scenarios = [f"steps_at_random:{parallel}:{80 // world_size}"]
    scenarios += [f"steps_at_random:{parallel}:{40 // world_size}:sharded"]
    on_ranks(world_size, tmp_path, *scenarios, seconds=280)


def test_unannounced_changes_on_one_rank_are_never_published(tmp_path: Path) -> None:
    """They are noticed by versions or checksums, thrown away by all, and saved again by copy.

    Until then the checkpoint before is the newest.
    """
    of_two(tmp_path, *(f"is_torn:{how}:{form}" for how in ("in_place", "hidden") for form in _FORMS))


def test_what_comes_from_devices_is_of_one_instant(tmp_path: Path) -> None:
    """Ranks may step at once; a change on one of them that nobody announced is thrown away by all."""
    of_two(tmp_path, *(f"{act}_a_device:{form}" for act in ("comes_from", "is_torn_on") for form in _FORMS))


def test_no_error_of_one_rank_leaves_others_waiting(tmp_path: Path) -> None:
    """Wherever in a save it comes, inside an agreement or not, all raise at the same step, naming it."""
    cases = ["arriving:pth", "whole:pth", "laying out:pth", "laying out:sharded", "after:sharded"]
    of_two(tmp_path, *(f"fails_between_agreements:{case}" for case in cases))
