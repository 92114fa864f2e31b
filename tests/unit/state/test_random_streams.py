"""Every random stream goes on where it was."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch

from linnaeus.errors import ResumeMismatchError
from linnaeus.state import capture_rng, restore_rng


def draw() -> list[Any]:
    """Draw from every stream, Gaussians too, of which Python and numpy keep every second one for later."""
    return [
        random.random(), random.gauss(0, 1), random.getrandbits(64),
        float(np.random.rand()), float(np.random.randn()), int(np.random.randint(1 << 30)),
        torch.rand(3).tolist(), torch.randn(1).item(), torch.randperm(9).tolist(),
    ]  # fmt: skip


@pytest.mark.parametrize("drawn_before", range(4))
def test_all_streams_are_continued(drawn_before: int) -> None:
    """After a restore, each stream yields what it would have yielded, also between two Gaussians."""
    for _ in range(drawn_before):
        draw()
    random.gauss(0, 1)
    np.random.randn()
    captured = capture_rng()
    expected = [draw() for _ in range(3)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    restore_rng(captured, "x.pth")
    assert [draw() for _ in range(3)] == expected


def test_a_captured_state_is_plain(tmp_path: Any) -> None:
    """It survives a safe file and still restores."""
    import linnaeus

    linnaeus.save(capture_rng(), tmp_path / "rng.pth")
    expected = draw()
    draw()
    restore_rng(linnaeus.load(tmp_path / "rng.pth"), "rng.pth")
    assert draw() == expected


def test_capturing_draws_nothing() -> None:
    """Saving does not change what follows."""
    captured = capture_rng()
    expected = draw()
    restore_rng(captured, "x.pth")
    capture_rng()
    assert draw() == expected


def test_a_later_draw_does_not_change_what_was_captured() -> None:
    """The captured state is a copy, not the live one."""
    captured = capture_rng()
    expected = draw()
    restore_rng(captured, "x.pth")
    draw()
    restore_rng(captured, "x.pth")
    assert draw() == expected


def test_numpy_is_not_needed_where_the_run_did_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never imported numpy has no such stream; a state that has one needs it."""
    with monkeypatch.context() as patched:
        patched.delitem(sys.modules, "numpy")
        assert "numpy" not in capture_rng()
    state = capture_rng()
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ResumeMismatchError, match="pip install numpy"):
        restore_rng(state, "x.pth")
