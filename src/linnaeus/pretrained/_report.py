"""What arrived in a model, and what did not: values only; showing them is left to others."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["loaded", "adapted", "fresh"]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What became of one tensor of the model.

    Attributes:
        name: Its name in the model.
        shape: Its shape.
        status: `loaded` as it was, `adapted` on the way, or `fresh`: as the model had it before.
        is_parameter: False for a buffer; buffers are listed, but counts are of parameters.
        is_head: Whether it belongs to a classification head.
        claimed: Whether a source was to fill it.
        claimants: The sources that were to fill it.
        source: The source that filled it.
        origins: The names there that it was made of.
        note: What an adapter did.
        num_filled: How many of its elements arrived, where that is neither all nor none of them.
    """

    name: str
    shape: Shape
    status: Status
    is_parameter: bool = True
    is_head: bool = False
    claimed: bool = True
    claimants: tuple[str, ...] = ()
    source: str | None = None
    origins: tuple[str, ...] = ()
    note: str | None = None
    num_filled: int | None = None

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_arrived(self) -> int:
        """Number of elements that a source filled."""
        if self.num_filled is not None:
            return self.num_filled
        return 0 if self.status == "fresh" else self.num_elements

    def counted(self, status: Status) -> int:
        """Return how many of its elements are of a status; those of all three add up to its elements."""
        if status == "fresh":
            return self.num_elements - self.num_arrived
        return self.num_arrived if status == self.status else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """One tensor of a source that went nowhere; `nearest` is a name of the model that it may have meant."""

    source: str
    name: str
    shape: Shape
    reason: str
    nearest: str | None = None

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A tensor that has a place in the model, of another shape or kind of number."""

    name: str
    source: str
    origins: tuple[str, ...]
    shape: Shape
    dtype: str
    source_shape: Shape
    source_dtype: str
    why: str | None = None

    def line(self) -> str:
        """Return it as one line with both sides."""
        ours, theirs = f"{self.shape}", f"{self.source_shape}"
        if self.shape == self.source_shape:
            ours, theirs = f"{ours} {self.dtype}", f"{theirs} {self.source_dtype}"
        why = f": {self.why}" if self.why else ""
        return f"{self.name}: {ours} in the model, {theirs} in {self.source}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """One source of a load.

    Attributes:
        name: A recipe's source, or `pretrained`.
        identifier: What the config says.
        path: The file.
        container: The key in the file that the weights were found under; empty for none.
        prefix: What was stripped from the names there.
        rules: The rule sets that were applied.
        num_tensors: Tensors in it.
        num_used: How many of them went into the model.
        num_claimed: Parameters of the model that it was to fill.
        num_arrived: How many of those it filled.
        sha256: Digest of the file, where it was asked for; of a directory of shards, of its commit file.
    """

    name: str
    identifier: str
    path: str
    container: str
    prefix: str
    rules: str | None
    num_tensors: int
    num_used: int
    num_claimed: int
    num_arrived: int
    sha256: str | None = None

    @property
    def coverage(self) -> float:
        """Share of what it was to fill that it filled."""
        return self.num_arrived / self.num_claimed if self.num_claimed else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """The parameters of one module, counted: one row of a table."""

    module: str
    loaded: int = 0
    adapted: int = 0
    fresh: int = 0
    num_tensors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load of pretrained weights did; counts are of parameters unless they say tensors.

    Attributes:
        model: The model's class.
        sources: The checkpoints; none when nothing was to be loaded.
        arrivals: Every tensor of the model, once, in its order.
        unused: Every tensor of a source that went nowhere.
        mismatches: What had a place of another shape or kind.
        notes: What else there is to know, one line each.
        conflicts: Why nothing may be loaded; empty in the report of a load that was done.
        min_coverage: The share that was asked for.
    """

    model: str
    sources: tuple[SourceReport, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    unused: tuple[Unused, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    notes: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    min_coverage: float = 0.0

    @property
    def num_parameters(self) -> int:
        """Parameters of the model: loaded, adapted and fresh ones together."""
        return sum(a.num_elements for a in self._parameters())

    @property
    def num_loaded(self) -> int:
        """Parameters that arrived as they were."""
        return sum(a.counted("loaded") for a in self._parameters())

    @property
    def num_adapted(self) -> int:
        """Parameters that arrived changed, so that the function stays."""
        return sum(a.counted("adapted") for a in self._parameters())

    @property
    def num_fresh(self) -> int:
        """Parameters that no source filled."""
        return sum(a.counted("fresh") for a in self._parameters())

    @property
    def num_unused(self) -> int:
        """Elements in the sources that went nowhere."""
        return sum(unused.num_elements for unused in self.unused)

    @property
    def num_claimed(self) -> int:
        """Parameters that the sources were to fill; heads are never among them."""
        return sum(a.num_elements for a in self._parameters() if a.claimed)

    @property
    def coverage(self) -> float | None:
        """Share of the claimed parameters that arrived; None when nothing was to be loaded."""
        if not self.num_claimed:
            return None
        return sum(a.num_arrived for a in self._parameters() if a.claimed) / self.num_claimed

    @property
    def is_enough(self) -> bool:
        """Whether nothing is in conflict and each source covers what was asked for."""
        short = any(source.coverage < self.min_coverage for source in self.sources)
        return not self.conflicts and not short and (bool(self.num_claimed) or not self.sources)

    def num_tensors(self, status: Status) -> int:
        """Return how many tensors of the model, buffers too, are of a status."""
        return sum(1 for arrival in self.arrivals if arrival.status == status)

    def missing(self) -> tuple[Arrival, ...]:
        """Return what a source was to fill and did not."""
        return tuple(a for a in self.arrivals if a.claimed and a.status == "fresh")

    def unclaimed(self) -> tuple[Arrival, ...]:
        """Return the parameters that no source was to fill and none did."""
        return tuple(a for a in self._parameters() if not a.claimed and a.status == "fresh")

    def modules(self) -> tuple[ModuleRow, ...]:
        """Return the counts module by module, in the model's order."""
        rows: dict[str, dict[str, int]] = {}
        for arrival in self._parameters():
            row = rows.setdefault(module_of(arrival.name), dict.fromkeys(_COUNTED, 0))
            row["num_tensors"] += 1
            for status in _STATUSES:
                row[status] += arrival.counted(status)
        return tuple(ModuleRow(module=module, **row) for module, row in rows.items())

    def lines(self) -> tuple[str, ...]:
        """Return the report as text, the most important first."""
        return (self.summary(), *_source_lines(self.sources), *self.problems(), *self.notes)

    def summary(self) -> str:
        """Return the report as one line."""
        if not self.sources:
            return f"no pretrained weights for {self.model}: none are configured"
        share = "nothing" if self.coverage is None else f"{self.coverage:.1%}"
        names = " and ".join(source.identifier for source in self.sources)
        return (
            f"{share} of what {names} should give {self.model} arrived:"
            f" {self.num_loaded:,} parameters loaded, {self.num_adapted:,} adapted, {self.num_fresh:,} fresh;"
            f" {self.num_unused:,} in the source{'s' if len(self.sources) > 1 else ''} not used"
        )

    def problems(self, limit: int = 8) -> tuple[str, ...]:
        """Return what to look into, one line each, at most `limit` of a kind."""
        hinted = [u for u in self.unused if u.nearest]
        other_shape = {m.name for m in self.mismatches}
        return (
            *_first(limit, "of another shape", [m.line() for m in self.mismatches]),
            *_first(limit, "missing modules", list(_fresh_rows(self.missing(), other_shape))),
            *_first(limit, "unknown names", [f"{u.source} has {u.name}: meant {u.nearest}?" for u in hinted]),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the whole report as dicts, lists and plain values, ready for JSON."""
        whole = asdict(self)
        del whole["sources"]
        result: dict[str, Any] = _listed({**self._head(), **whole})
        return result

    def to_lineage(self) -> dict[str, Any]:
        """Return it for the run's checkpoints: counts by module and source, and names of what is wrong only.

        `report_sha256` is the digest of `to_text`, which stands beside them and is many times as long.
        """
        told = {"notes": self.notes, "problems": self.problems(), "min_coverage": self.min_coverage}
        digest = hashlib.sha256(self.to_text().encode()).hexdigest()
        result: dict[str, Any] = _listed({**self._head(), **told, "report_sha256": digest})
        return result

    def to_text(self) -> str:
        """Return the whole report as JSON text."""
        return json.dumps(self.to_plain(), indent=1)

    def _head(self) -> dict[str, Any]:
        counts = {
            "parameters": self.num_parameters,
            "loaded": self.num_loaded,
            "adapted": self.num_adapted,
            "fresh": self.num_fresh,
            "claimed": self.num_claimed,
            "unused": self.num_unused,
        }
        tensors = {status: self.num_tensors(status) for status in _STATUSES} | {"unused": len(self.unused)}
        modules = [asdict(row) for row in self.modules()]
        sources = [asdict(source) | {"coverage": source.coverage} for source in self.sources]
        head = {"model": self.model, "coverage": self.coverage, "counts": counts, "tensors": tensors}
        return {**head, "modules": modules, "sources": sources}

    def _parameters(self) -> Iterable[Arrival]:
        return (arrival for arrival in self.arrivals if arrival.is_parameter)


_STATUSES: tuple[Status, ...] = ("loaded", "adapted", "fresh")
_COUNTED = (*_STATUSES, "num_tensors")


def module_of(name: str) -> str:
    """Return the module that a tensor is counted under: the first part of its name, and a number after it."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if len(rest) > 1 and (rest[0].isdigit() or first == "heads") else first


def _count(arrivals: Iterable[Arrival]) -> int:
    return sum(arrival.num_elements for arrival in arrivals)


def _source_lines(sources: Iterable[SourceReport]) -> Iterable[str]:
    for source in sources:
        found = f" under {source.container!r}" if source.container else ""
        prefix = f", {source.prefix!r} stripped" if source.prefix else ""
        used = f"{source.num_used} of {source.num_tensors} tensors used"
        yield (
            f"{source.name}: {source.path}{found}{prefix}: {used},"
            f" {source.coverage:.1%} of {source.num_claimed:,} parameters"
        )


def _fresh_rows(missing: Iterable[Arrival], other_shape: set[str]) -> Iterable[str]:
    rows: dict[str, list[Arrival]] = {}
    for arrival in missing:
        if arrival.name not in other_shape:
            rows.setdefault(module_of(arrival.name), []).append(arrival)
    for module, arrivals in rows.items():
        more = f" and {len(arrivals) - 1} more in {module}" if len(arrivals) > 1 else ""
        yield f"nothing for {arrivals[0].name}{more} ({_count(arrivals):,} parameters)"


def _first(limit: int, what: str, lines: list[str]) -> list[str]:
    more = len(lines) - limit
    return lines if more <= 0 else [*lines[:limit], f"{more} more {what}"]


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
