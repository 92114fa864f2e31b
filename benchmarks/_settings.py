"""What a run of the benchmarks was asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks._timing import Comparison

# The state that bars are about.
MAIN = "343 MB"


class NotMeasuredError(Exception):
    """Something can't be measured on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured, and where.

    Attributes:
        home: Where files are written; each comparison has a directory of its own inside it.
        runs: How often each way has its turn.
        sizes: Of the training state, names in `WIDTHS`.
        counts: Of small tensors.
    """

    home: Path
    runs: int
    sizes: Sequence[str]
    counts: Sequence[int]

    @property
    def main_sizes(self) -> Sequence[str]:
        """The sizes without the smallest, where fixed costs would be all there is to see."""
        return [size for size in self.sizes if size != "10 MB"] or self.sizes

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Give an empty directory and remove it afterwards."""
        with tempfile.TemporaryDirectory(dir=self.home) as path:
            yield Path(path)


Benchmark = Callable[[Settings], Iterator[Comparison]]
