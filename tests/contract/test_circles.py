"""Inside a room, modules stand upon each other in one direction."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import linnaeus

_ROOT = Path(linnaeus.__file__).parent
_ROOMS = sorted(entry.parent.name for entry in _ROOT.glob("*/__init__.py"))


def imported(module: Path) -> set[str]:
    """Return the private modules of its own room that a module imports, also for types alone."""
    prefix = f"linnaeus.{module.parent.name}."
    tree = ast.parse(module.read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.removeprefix(prefix) for name in names if name.startswith(f"{prefix}_")}


@pytest.mark.parametrize("room", _ROOMS)
def test_there_are_no_circles(room: str) -> None:
    """A module can be read after those that it imports."""
    try:
        TopologicalSorter({one.stem: imported(one) for one in (_ROOT / room).glob("_*.py")}).prepare()
    except CycleError as error:
        pytest.fail(f"{room}: {' → '.join(error.args[1])}")
