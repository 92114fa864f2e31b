"""A run of several ranks with a bucket: one copies, all wait for it, and all come back from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.torchrun import on_ranks

pytestmark = pytest.mark.slow

_FILES = ["checkpoint_epoch_1.pth", "checkpoint_epoch_2.pth"]


def test_one_rank_copies_and_all_wait(tmp_path: Path) -> None:
    """Rank 0 alone sends, `close` returns nowhere before that has arrived, and two empty nodes come back."""
    (tmp_path / "bucket").mkdir()
    on_ranks(4, tmp_path, "copies:0.05")
    noted = [json.loads((tmp_path / f"there_{rank}.json").read_text()) for rank in range(4)]
    assert [there for there, _ in noted] == [_FILES] * 4
    assert sorted(noted[0][1]) == _FILES
    assert [sent for _, sent in noted[1:]] == [[]] * 3


def test_what_did_not_arrive_is_told_on_all_ranks(tmp_path: Path) -> None:
    """Every rank ends with the same error, which says how to send the rest."""
    on_ranks(2, tmp_path, "fails_to_copy")
    assert (tmp_path / "run" / _FILES[-1]).is_file()
