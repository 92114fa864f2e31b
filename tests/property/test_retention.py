"""Retention, for any run and any rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from linnaeus.runs import RunCheckpoint
from linnaeus.saving import Retention, decide
from support.checkpoints import entry

losses = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, float("nan"), float("inf"), float("-inf")]),
    st.floats(allow_nan=True),
)
entries = st.builds(
    lambda epoch, step, loss, damaged, pinned, hours: entry(
        epoch, step, loss, damaged=damaged, pinned=pinned, hours=hours
    ),
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(0, 150)),
    losses,
    st.booleans(),
    st.sampled_from([False, False, True]),
    st.one_of(st.none(), st.floats(0, 1000)),
)
directories = st.lists(entries, max_size=12, unique_by=lambda found: found.path)
counts = st.integers(0, 6)
rules = st.builds(
    lambda last, top, every, mode, hours: Retention(last, top, every, mode=mode, keep_every_hours=hours),
    counts,
    counts,
    counts,
    st.sampled_from(["min", "max"]),
    st.sampled_from([0, 0.5, 2, 24]),
)


def kept(
    rule: Retention, run: list[RunCheckpoint], protected: list[RunCheckpoint] | None = None
) -> list[RunCheckpoint]:
    """Return what stays."""
    names = {found.name: "needed" for found in protected or []}
    return [verdict.checkpoint for verdict in decide(run, rule, names) if verdict.keep]


def usable(run: list[RunCheckpoint]) -> list[RunCheckpoint]:
    """Return the whole ones, newest first."""
    return sorted((f for f in run if f.problem is None), key=lambda f: (f.order, f.path.name), reverse=True)


@given(rules, directories, st.data())
def test_the_newest_the_protected_and_the_damaged_stay(
    rule: Retention, run: list[RunCheckpoint], data: st.DataObject
) -> None:
    """Never is a run left without its newest usable checkpoint, a protected one, or its evidence."""
    protected = data.draw(st.lists(st.sampled_from(run), max_size=3)) if run else []
    stays = kept(rule, run, protected)
    assert all(found in stays for found in protected)
    assert all(found in stays for found in run if found.problem or found.is_pinned)
    assert usable(run)[:1] == usable(stays)[:1]
    assert bool(stays) == bool(run)


@given(rules, directories)
def test_every_one_gets_one_verdict_newest_first(rule: Retention, run: list[RunCheckpoint]) -> None:
    """Nothing is forgotten, invented or judged twice, in whatever order it comes."""
    verdicts = decide(run, rule)
    assert sorted(v.checkpoint.path for v in verdicts) == sorted(found.path for found in run)
    orders = [v.checkpoint.order for v in verdicts]
    assert orders == sorted(orders, reverse=True)
    assert [v.keep for v in verdicts] == [v.keep for v in decide(run[::-1], rule)]


@given(rules, directories)
def test_pruning_twice_prunes_nothing_more(rule: Retention, run: list[RunCheckpoint]) -> None:
    """What stays once, stays."""
    stays = kept(rule, run)
    assert kept(rule, stays) == stays


@given(counts, counts, counts, directories, st.sampled_from(["last", "top"]))
def test_a_larger_number_keeps_no_less(
    last: int, top: int, every: int, run: list[RunCheckpoint], which: str
) -> None:
    """Asking for more never loses one that fewer would keep (from 1 on: 0 switches a rule off)."""
    last, top = max(last, 1), max(top, 1)
    more = Retention(last + (which == "last"), top + (which == "top"), every)
    less = kept(Retention(last, top, every), run)
    assert all(found in kept(more, run) for found in less)


@given(directories)
def test_with_no_rule_everything_stays(run: list[RunCheckpoint]) -> None:
    """All rules off keep all, whatever the metrics are."""
    assert len(kept(Retention(0, 0, 0), run)) == len(run)


@given(st.integers(1, 6), st.sampled_from(["min", "max"]), directories)
def test_the_best_stay(top: int, mode: str, run: list[RunCheckpoint]) -> None:
    """No pruned checkpoint is better than one that was kept for its metric."""
    rule = Retention(0, top, 0, mode=mode)
    sign = 1 if mode == "max" else -1
    ranked = [sign * v for v in (found.metric("loss") for found in rule.ranked(run)) if v is not None]
    assert ranked == sorted(ranked, reverse=True)
    stays = kept(rule, run)
    assert all(found in stays for found in rule.ranked(run)[:top])
    assert len([found for found in usable(stays) if not found.is_pinned]) <= top + 1


@given(rules, directories)
def test_each_that_stays_has_a_reason(rule: Retention, run: list[RunCheckpoint]) -> None:
    """Kept and reasoned are one and the same."""
    assert all(v.keep == bool(v.reasons) for v in decide(run, rule))


@given(rules, directories, st.data())
def test_what_is_removed_as_the_run_goes_on_is_what_would_be_removed_at_its_end(
    rule: Retention, run: list[RunCheckpoint], data: st.DataObject
) -> None:
    """The rule of hours keeps the same ones whether it is applied at every save or once."""
    hours = data.draw(st.sampled_from([0.5, 2.0, 24.0]))
    only_hours = Retention(0, 0, 0, keep_every_hours=hours)
    ordered = usable(run)[::-1]
    there: list[RunCheckpoint] = []
    for found in ordered:
        there = kept(only_hours, [*there, found])
    assert sorted(f.name for f in there) == sorted(f.name for f in kept(only_hours, ordered))


@given(rules, directories)
def test_a_moved_directory_is_judged_alike(rule: Retention, run: list[RunCheckpoint]) -> None:
    """Where the files lie makes no difference."""
    moved = [replace(found, path=Path("/elsewhere") / found.name) for found in run]
    assert [v.reasons for v in decide(moved, rule)] == [v.reasons for v in decide(run, rule)]
