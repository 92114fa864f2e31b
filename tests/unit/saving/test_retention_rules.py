"""Which checkpoints stay, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from linnaeus.runs import RunCheckpoint
from linnaeus.saving import Retention, decide
from support.checkpoints import entry

NAN, INF = float("nan"), float("inf")
RUN = [
    entry(1, loss=5),
    entry(2, loss=1),
    entry(3, loss=4),
    entry(3, 35, loss=0.5),
    entry(4, loss=2),
    entry(5, loss=3),
]


def kept(rules: Retention, run: list[RunCheckpoint], protected: Mapping[str, str] | None = None) -> list[str]:
    """Return the kept names, newest first, without their common beginning."""
    verdicts = decide(run, rules, protected)
    return [v.checkpoint.path.stem.removeprefix("checkpoint_epoch_") for v in verdicts if v.keep]


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (Retention(0, 0, 0), ["5", "4", "3_step_35", "3", "2", "1"]),
        (Retention(1, 0, 0), ["5"]),
        (Retention(2, 0, 0), ["5", "4"]),
        (Retention(99, 0, 0), ["5", "4", "3_step_35", "3", "2", "1"]),
        (Retention(0, 1, 0), ["5", "3_step_35"]),
        (Retention(0, 2, 0), ["5", "3_step_35", "2"]),
        (Retention(0, 1, 0, mode="max"), ["5", "1"]),
        (Retention(0, 0, 2), ["5", "4", "2"]),
        (Retention(0, 0, 3), ["5", "3"]),
        (Retention(1, 1, 3), ["5", "3_step_35", "3"]),
        (Retention(0, 1, 0, metric="accuracy"), ["5"]),
        (Retention(), ["5", "4", "3_step_35"]),
    ],
    ids=str,
)
def test_the_union_of_the_rules_is_kept(rules: Retention, names: list[str]) -> None:
    """Each rule adds; 0 switches one off, all off keep everything; the newest is kept in any case."""
    assert kept(rules, RUN) == names
    assert kept(rules, RUN[::-1]) == names


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_a_number_is_never_best(mode: str) -> None:
    """NaN and unmeasured checkpoints are not ranked, whichever way is better; infinities are."""
    run = [
        entry(1, loss=NAN),
        entry(2),
        entry(3, loss=INF if mode == "min" else -INF),
        entry(4, loss=NAN),
        entry(5),
    ]
    assert kept(Retention(0, 2, 0, mode=mode), run) == ["5", "3"]


def test_ties_go_to_the_newer() -> None:
    """Of equally good ones the newest stays."""
    assert kept(Retention(0, 1, 0), [entry(epoch, loss=1) for epoch in (1, 2, 3)] + [entry(4, loss=9)]) == [
        "4",
        "3",
    ]


def test_steps_are_ordered_as_numbers() -> None:
    """Step 100 is newer than step 99, and epoch 10 newer than 9."""
    run = [entry(9), entry(10, 100), entry(10, 99), entry(10, 1000)]
    assert kept(Retention(2, 0, 0), run) == ["10_step_1000", "10_step_100"]


def test_damaged_ones_stay_and_do_not_count() -> None:
    """A damaged file is evidence: never pruned, never the newest, never among the last or the best."""
    run = [entry(1, loss=9), entry(2, loss=8), entry(3, loss=0, damaged=True), entry(4, damaged=True)]
    assert kept(Retention(1, 1, 0), run) == ["4", "3", "2"]
    reasons = {v.checkpoint.epoch: v.reasons for v in decide(run, Retention(1, 0, 0))}
    assert reasons[4] == ("damaged, for you to look at",)


def test_the_protected_stay() -> None:
    """Protected files are kept whatever the rules say."""
    assert kept(Retention(1, 0, 0), RUN, {RUN[0].name: "not uploaded yet"}) == ["5", "1"]


def test_each_verdict_tells_all_its_reasons() -> None:
    """Why a file stays is told for people; what goes has no reason."""
    verdicts = {
        v.checkpoint.epoch: v.reasons
        for v in decide([entry(1), entry(2, loss=1), entry(3)], Retention(2, 1, 2))
    }
    assert verdicts[3] == ("the newest", "among the last 2")
    assert verdicts[2] == ("among the last 2", "number 1 by loss", "every 2 epochs")
    assert verdicts[1] == ()


def test_a_real_latest_of_an_earlier_version_stays() -> None:
    """A file named latest.pth, which earlier versions wrote, is never removed; ours is a link."""
    older = RunCheckpoint(Path("latest.pth"), epoch=1, step=0)
    verdicts = decide([entry(9), entry(8), older], Retention(1, 0, 0))
    assert [v.checkpoint.path.name for v in verdicts if v.keep] == ["checkpoint_epoch_9.pth", "latest.pth"]


def test_hours_are_counted_from_the_oldest_and_survive_a_clock_set_back() -> None:
    """One of every three hours; after a jump back the first one counts from there."""
    hours = [0, 1, 2, 3.5, 6, 6.5, 1, 2, 4.2, None]
    run = [entry(number, hours=hour) for number, hour in enumerate(hours, 1)]
    assert kept(Retention(0, 0, 0, keep_every_hours=3), run) == ["10", "9", "7", "6", "4", "1"]


def test_pinned_and_the_source_of_the_newest_stay() -> None:
    """What the user pinned, and what the process that saved the newest had gone on from."""
    run = [entry(1), entry(2, pinned=True), entry(3), entry(4, resumed_from="checkpoint_epoch_1.pth")]
    assert kept(Retention(1, 0, 0), run) == ["4", "2", "1"]


def test_an_epochs_end_stands_for_the_same_step_inside_it() -> None:
    """A save of the epoch's last step, as before its validation, takes no place among the last."""
    run = [entry(1), entry(1, 20), entry(2), entry(2, 30), entry(3), entry(3, 33)]
    assert kept(Retention(3, 0, 0), run) == ["3_step_33", "3", "2"]
