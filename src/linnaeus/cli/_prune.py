"""`linnaeus prune [DIR]`: remove what no rule of retention keeps, and say why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.cli._tables import Rows
    from linnaeus.runs import RunCheckpoint
    from linnaeus.saving import Verdict

_EXAMPLE = """
linnaeus prune --dry-run
linnaeus prune runs/digits/checkpoints --set SCHEDULE.CHECKPOINT.KEEP_LAST_N=5
"""


@command(
    "prune",
    summary="Remove the checkpoints of a run that no rule keeps, and say why each stays or goes.\n\n"
    "The rules are the KEEP keys of SCHEDULE.CHECKPOINT; what any of them wants stays, and so do the newest"
    " usable one, pinned ones, damaged ones, and the one that the run was resumed from. DIR is the"
    " directory of a run's checkpoints; without it, that of the config.",
    example=_EXAMPLE,
)
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def prune(call: Call, *, directory: Path | None, dry_run: bool) -> None:
    """Prune one directory."""
    from linnaeus import saving

    place = directory or Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
    rules = saving.Retention.of(call.cfg.SCHEDULE.CHECKPOINT)
    verdicts = saving.prune(place, rules, dry_run=dry_run)
    if call.as_json:
        call.out.json({"place": str(place), "dry_run": dry_run, "checkpoints": [_plain(v) for v in verdicts]})
        return
    if verdicts:
        call.out.show(_table(verdicts))
    call.out.line(_total(verdicts, place, dry_run=dry_run))


def _plain(verdict: Verdict[RunCheckpoint]) -> dict[str, object]:
    return {
        "name": verdict.checkpoint.name,
        "keep": verdict.keep,
        "reasons": list(verdict.reasons),
        "size_bytes": verdict.checkpoint.size_bytes,
    }


def _table(verdicts: Sequence[Verdict[RunCheckpoint]]) -> Rows:
    from linnaeus.cli._tables import FAINT, GOOD, PROBLEM, Column, Row, Rows, cell

    columns = (Column("name"), Column(""), Column("size", number=True), Column("why"))
    rows = [
        Row(
            (
                cell(verdict.checkpoint.name),
                cell("keep", GOOD) if verdict.keep else cell("remove", PROBLEM),
                cell(size_text(verdict.checkpoint.size_bytes)),
                cell(verdict.reason, FAINT),
            )
        )
        for verdict in verdicts
    ]
    return Rows(columns, rows)


def _total(verdicts: Sequence[Verdict[RunCheckpoint]], place: Path, *, dry_run: bool) -> str:
    gone = [verdict.checkpoint for verdict in verdicts if not verdict.keep]
    size = size_text(sum(checkpoint.size_bytes for checkpoint in gone))
    done = "would be removed" if dry_run else "removed"
    return f"{count_text(len(gone), 'file')}, {size}, {done} of {len(verdicts)} in {place}"
