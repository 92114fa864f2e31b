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
    " usable one, pinned ones, damaged ones, the one that the run was resumed from, and with"
    " ENV.OUTPUT.BUCKET.ENABLED what the bucket should have and has not. DIR is the directory of a run's"
    " checkpoints; without it, that of the config. --remote needs nothing of the run here.",
    example=_EXAMPLE,
)
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--remote", is_flag=True, help="Prune the run's copies in ENV.OUTPUT.BUCKET, by its KEEP keys.")
@click.option(
    "--run-id",
    metavar="ID",
    help="With --remote: the run, or how its id begins, where DIR does not tell; see ls --remote --run.",
)
def prune(call: Call, *, directory: Path | None, dry_run: bool, remote: bool, run_id: str | None) -> None:
    """Prune one directory, or its copies."""
    from linnaeus import saving

    if run_id is not None and not remote:
        raise click.UsageError("--run-id goes with --remote.", click.get_current_context())

    place = directory or Path(call.cfg.ENV.OUTPUT.DIRS.CHECKPOINTS)
    if remote:
        _prune_there(call, place, run_id, dry_run=dry_run)
        return
    rules, owed = saving.Retention.of(call.cfg.SCHEDULE.CHECKPOINT), saving.not_arrived(call.cfg, place)
    verdicts = saving.prune(place, rules, dry_run=dry_run, protected=owed)
    if call.as_json:
        call.out.json({"place": str(place), "dry_run": dry_run, "checkpoints": [_plain(v) for v in verdicts]})
        return
    if verdicts:
        call.out.show(_table(verdicts))
    call.out.line(_total(verdicts, place, dry_run=dry_run))


def _prune_there(call: Call, place: Path, run_id: str | None, *, dry_run: bool) -> None:
    from linnaeus import saving

    copies = saving.copies_of(call.cfg, place)
    plan = saving.prune_there(copies, dry_run=dry_run, run_id=run_id)
    where = copies.remote.place
    if call.as_json:
        plain = [{"name": name, "keep": bool(why), "reasons": list(why)} for name, why in plan.items()]
        call.out.json({"place": where, "dry_run": dry_run, "checkpoints": plain})
        return
    for name, why in plan.items():
        call.out.line(f"{name}: {', '.join(why) or 'no rule keeps it'}", mark="keep" if why else "remove")
    done = "would be removed" if dry_run else "removed"
    gone = [name for name, why in plan.items() if not why]
    call.out.line(f"{count_text(len(gone), 'file')} {done} of {len(plan)} of this run in {where}")


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
