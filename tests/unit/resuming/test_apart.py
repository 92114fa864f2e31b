"""Which node hands which files to which: decided alike on all ranks, from what each tells."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from linnaeus.resuming._apart import Transfer, transfers

_FILES = st.lists(st.sampled_from("abcdef"), unique=True)


def _told(here: Sequence[Sequence[str]]) -> list[dict[str, object]]:
    return [{"rank": 2 * number, "here": names} for number, names in enumerate(here)]


def test_the_lowest_rank_that_has_a_file_hands_it_on() -> None:
    """Files that go the same way go together; who has a file is handed none."""
    told = _told([["a", "b"], ["b", "c"], []])
    wanted = [(0, ["a", "b", "c"]), (2, ["c"]), (4, ["a", "b", "c"]), (4, ["a"])]
    assert transfers(told, wanted) == [Transfer(0, (4,), ["a", "b"]), Transfer(2, (0, 4), ["c"])]


@given(st.lists(_FILES, min_size=1, max_size=4), st.data())
def test_afterwards_every_node_has_what_it_wants(here: list[list[str]], data: st.DataObject) -> None:
    """Nothing is sent twice, by whom has it not, or to whom has it."""
    all_files = sorted({name for names in here for name in names})
    wants = (
        data.draw(
            st.lists(
                st.lists(st.sampled_from(all_files), unique=True), min_size=len(here), max_size=len(here)
            )
        )
        if all_files
        else [[] for _ in here]
    )
    have = {2 * number: set(names) for number, names in enumerate(here)}
    for source, members, names in transfers(_told(here), [(2 * n, want) for n, want in enumerate(wants)]):
        for name in names:
            assert name in have[source]
            for member in members:
                assert name not in have[member]
                have[member].add(name)
    for number, want in enumerate(wants):
        assert set(want) <= have[2 * number]
        assert have[2 * number] == set(here[number]) | set(want)
