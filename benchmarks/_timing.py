"""Ways that take turns, and what was seen of each."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


def _nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing a thing.

    Attributes:
        name: How it is called in tables; bars refer to it.
        act: What is timed. What it returns is freed after the clock has stopped.
        prepare: What comes before each time, untimed.
    """

    name: str
    act: Callable[[], object]
    prepare: Callable[[], object] = _nothing


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one way, in the order of time."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value; what ratios are made of."""
        return statistics.median(self.values)

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def highest(self) -> float:
        """The largest value."""
        return max(self.values)


@dataclass(frozen=True, slots=True)
class Bar:
    """What is to be reached.

    Attributes:
        way: Whom it is about.
        against: Another way; None for a bar on the value itself.
        faster: How many times less than the other's the value must be.
        at_most: How many times the other's the value may be, or the value itself without another.
    """

    way: str
    against: str | None = None
    faster: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what was seen."""

    bar: Bar
    found: float

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached."""
        bar = self.bar
        return (bar.faster is None or self.found >= bar.faster) and (
            bar.at_most is None or self.found <= bar.at_most
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ways side by side; values are in `unit`, less is better; tables compare each way with `reference`."""

    title: str
    unit: str
    samples: dict[str, Sample]
    reference: str
    bars: Sequence[Bar] = field(default=())

    def verdicts(self) -> list[Verdict]:
        """Return every bar with the number it is about."""
        return [Verdict(bar, self._found(bar)) for bar in self.bars]

    def _found(self, bar: Bar) -> float:
        value = self.samples[bar.way].median
        if bar.against is None:
            return value
        other = self.samples[bar.against].median
        return other / value if bar.faster is not None else value / other


def take_turns(ways: Sequence[Way], runs: int) -> dict[str, Sample]:
    """Time every way `runs` times, one after the other, after one round that does not count.

    Returns:
        Milliseconds by the names of the ways.
    """
    seen: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(runs + 1):
        for way in ways:
            milliseconds = _time(way)
            if number:
                seen[way.name].append(milliseconds)
    return {name: Sample(tuple(values)) for name, values in seen.items()}


def _time(way: Way) -> float:
    way.prepare()
    gc.collect()
    # Saves are minutes apart in real life: nobody pays for writing back what the way before left in memory.
    os.sync()
    start = time.perf_counter()
    result = way.act()
    stop = time.perf_counter()
    del result
    return (stop - start) * 1e3
