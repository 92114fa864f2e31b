"""Agreement of ranks: one verdict, everybody's errors, and the names of those who are missing."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from linnaeus.distributed import Group, Roles, alone
from linnaeus.errors import CheckpointNotFoundError, PeerFailedError, SaveError
from support.threads_as_ranks import run_ranks


def _sum_of_ranks(group: Group) -> Any:
    return group.agree(
        "adding", lambda: [group.roles.rank], merge=lambda parts: [n for part in parts for n in part]
    )


@pytest.mark.parametrize("world_size", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("fan_out", [2, 16])
def test_all_get_what_all_said(world_size: int, fan_out: int) -> None:
    """Every rank gets the merged values of all, in the order of ranks."""
    outcomes = run_ranks(world_size, _sum_of_ranks, fan_out=fan_out)
    assert outcomes == {rank: list(range(world_size)) for rank in range(world_size)}


def test_rank_0_alone_concludes() -> None:
    """The conclusion is drawn once, and everybody has it."""
    concluded: list[int] = []

    def act(group: Group) -> Any:
        def conclude(total: int) -> int:
            concluded.append(group.roles.rank)
            return total * 10

        return group.agree("it", lambda: 1, merge=sum, conclude=conclude)

    assert set(run_ranks(5, act).values()) == {50}
    assert concluded == [0]


def test_an_error_on_one_rank_is_raised_on_all() -> None:
    """Who failed raises its own error, all others one that names it and tells its text."""

    def act(group: Group) -> None:
        def fail() -> None:
            if group.roles.rank == 3:
                raise SaveError(path="x.pth", problem="the disk is on fire")

        group.agree("saving x.pth", fail)

    outcomes = run_ranks(5, act, fan_out=2)
    assert type(outcomes.pop(3)) is SaveError
    for error in outcomes.values():
        assert isinstance(error, PeerFailedError)
        assert error.ranks == [3]
        assert "rank 3: SaveError: could not write x.pth: the disk is on fire" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_errors_of_several_ranks_are_all_told() -> None:
    """Two ranks fail, and the others hear of both."""

    def act(group: Group) -> None:
        def fail() -> None:
            if group.roles.rank in (1, 4):
                raise OSError(f"disk {group.roles.rank}")

        group.agree("it", fail)

    assert run_ranks(6, act, fan_out=2)[0].ranks == [1, 4]


def test_an_error_of_the_conclusion_is_raised_on_all() -> None:
    """Rank 0 fails to conclude: it raises that, the others hear of it."""

    def conclude(_: object) -> None:
        raise OSError("no")

    outcomes = run_ranks(3, lambda group: group.agree("it", lambda: None, conclude=conclude))
    assert type(outcomes[0]) is OSError
    assert [outcomes[rank].ranks for rank in (1, 2)] == [[0], [0]]


@pytest.mark.parametrize("gone", [(0,), (3,), (4, 5, 6), (8, 9, 10, 11)])
def test_missing_ranks_are_named(gone: tuple[int, ...]) -> None:
    """Within the deadline and a little, all others raise an error that names exactly who did not come."""
    outcomes = run_ranks(12, _sum_of_ranks, deadline_seconds=0.5, without=gone, fan_out=4)
    assert [outcome.ranks for outcome in outcomes.values()] == [list(gone)] * (12 - len(gone))


def test_who_comes_late_raises_the_same() -> None:
    """A rank that was stopped and goes on finds the verdict that was reached without it."""

    def act(group: Group) -> Any:
        if group.roles.rank == 2:
            time.sleep(1.5)
        return _sum_of_ranks(group)

    outcomes = run_ranks(4, act, deadline_seconds=0.5)
    assert all(isinstance(outcome, PeerFailedError) and outcome.ranks == [2] for outcome in outcomes.values())


def test_an_interrupted_rank_lets_the_others_go_at_once() -> None:
    """Ctrl-C on one rank is no reason for the others to wait for the deadline."""

    def act(group: Group) -> None:
        def interrupt() -> None:
            if group.roles.rank == 1:
                raise KeyboardInterrupt

        group.agree("it", interrupt)

    outcomes = run_ranks(4, act, deadline_seconds=600)
    assert type(outcomes.pop(1)) is KeyboardInterrupt
    assert [error.ranks for error in outcomes.values()] == [[1]] * 3


def test_a_decision_is_made_once() -> None:
    """One rank decides, all have its decision with the reason."""
    decided: list[int] = []

    def act(group: Group) -> Any:
        return group.decide_once(
            "which", lambda: decided.append(group.roles.rank) or {"path": "a.pth", "reason": "newest"}, by=2
        )

    outcomes = run_ranks(4, act)
    assert list(outcomes.values()) == [{"path": "a.pth", "reason": "newest"}] * 4
    assert decided == [2]


def test_an_error_of_ours_in_a_decision_is_the_same_on_all() -> None:
    """What the rank that decides raises is raised on every rank, of its own kind."""

    def act(group: Group) -> Any:
        def decide() -> None:
            raise CheckpointNotFoundError(identifier="x.pth", places=["nowhere"])

        return group.decide_once("which", decide)

    assert {(type(e), str(e)) for e in run_ranks(3, act).values()} == {
        (CheckpointNotFoundError, "checkpoint 'x.pth' not found: nowhere.")
    }


def test_a_silent_decider_is_named() -> None:
    """Nobody waits for a rank that gives no sign of life."""
    outcomes = run_ranks(
        3, lambda group: group.decide_once("which", dict), deadline_seconds=0.3, without=(0,)
    )
    assert [error.ranks for error in outcomes.values()] == [[0], [0]]


def test_many_agreements_leave_few_keys() -> None:
    """What was agreed on before is removed from the store."""
    counted: list[int] = []

    def act(group: Group) -> None:
        for _ in range(20):
            _sum_of_ranks(group)
            group.decide_once("it", dict)
        group.barrier("end")
        if group.roles.rank == 0:
            counted.append(group.store.num_keys())  # type: ignore[attr-defined]

    run_ranks(4, act)
    assert counted[0] < 30


def test_one_process_agrees_with_itself() -> None:
    """Without a process group every call works, and errors are its own."""
    group = alone()
    assert group.roles == Roles()
    assert _sum_of_ranks(group) == [0]
    assert group.decide_once("it", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        group.agree("it", lambda: 1 // 0)


def test_roles_come_from_the_launcher() -> None:
    """Variables of torchrun and Slurm are understood; without any, each rank leads a node of its own."""
    assert Roles.of(5, 8, {"LOCAL_RANK": "1", "GROUP_RANK": "2"}) == Roles(5, 8, 1, 2)
    assert Roles.of(5, 8, {"SLURM_LOCALID": "3", "SLURM_NODEID": "1"}) == Roles(5, 8, 3, 1)
    assert Roles.of(5, 8, {}).leads_node


def test_who_comes_when_all_others_have_given_up_hears_why() -> None:
    """A rank that ends what it did after the others have failed raises their error, not one of its own."""
    gone = [threading.Event() for _ in range(3)]

    def act(group: Group) -> None:
        def decide(_: Callable[[], None]) -> None:
            if group.rank > 0:
                raise CheckpointNotFoundError(identifier="x.pth", places=["nowhere"])
            assert all(event.wait(20) for event in gone[1:])

        group.barrier("begin")
        try:
            group.decide_apart("fetching", group.rank, decide)
        finally:
            gone[group.rank].set()

    assert {type(outcome) for outcome in run_ranks(3, act).values()} == {CheckpointNotFoundError}
