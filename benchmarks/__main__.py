"""The door: choose what is measured, show it, keep it."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from benchmarks import (
    _beside,
    _bucket,
    _gpu,
    _loading,
    _ranks,
    _ranks_fetch,
    _reading,
    _saving,
    _stitching,
    _uploading,
)
from benchmarks._machine import describe_machine
from benchmarks._plot import plot
from benchmarks._report import count_met, show, write
from benchmarks._settings import MAIN, Benchmark, NotMeasuredError, Settings
from benchmarks._timing import Comparison

_RESULTS = Path(__file__).resolve().parent / "results"
_PICTURE = _RESULTS.parent / "results.svg"

BENCHMARKS: dict[str, Benchmark] = {
    "loop": _saving.in_a_loop,
    "first": _saving.first,
    "latest": _saving.epoch_and_latest,
    "small-save": _saving.small_saves,
    "small-load": _reading.small_loads,
    "verify": _reading.verification,
    "inference": _loading.inference,
    "fill": _loading.filling,
    "rehearse": _stitching.rehearsing,
    "stitch": _stitching.stitching,
    "blocked": _beside.blocked,
    "wall": _beside.wall,
    "memory": _beside.memory,
    "choose": _beside.choosing,
    "gpu": _gpu.on_a_gpu,
    "download": _bucket.downloads,
    "streams": _bucket.streams,
    "kill": _bucket.kills,
    "choose-there": _bucket.choosing,
    "beside-upload": _uploading.beside_training,
    "failing-upload": _uploading.under_faults,
    "ranks-save": _ranks.saves,
    "ranks-resume": _ranks.resumes,
    "ranks-beside": _ranks.beside,
    "ranks-lost": _ranks.lost,
    "ranks-agreement": _ranks.agreement,
    "ranks-fetch": _ranks_fetch.fetches,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--large", is_flag=True, help="Also a state of 3.6 GB; takes 20 GB of disk.")
@click.option("--tiny", is_flag=True, help="Only what takes seconds: 10 MB, 1,000 tensors.")
@click.option("--only", multiple=True, type=click.Choice(list(BENCHMARKS)), help="Only these; repeatable.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Turns of each way.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to write: its filesystem is measured. Default: beside the results.",
)
def main(*, large: bool, tiny: bool, only: tuple[str, ...], runs: int, directory: Path | None) -> None:
    """Measure linnaeus against torch, safetensors and the limits of this machine."""
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    sizes = ["10 MB"] if tiny else ["10 MB", MAIN] + (["3.6 GB"] if large else [])
    what = ("-".join(only) or "all") + ("-tiny" if tiny else "-large" if large else "")
    today = datetime.now(UTC).date().isoformat()
    target = _RESULTS / f"{today}-{what}.json"
    _RESULTS.mkdir(exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory or _RESULTS, prefix=".running-") as home:
        settings = Settings(Path(home), runs, sizes, [1_000] if tiny else [1_000, 10_000, 100_000])
        left_out: dict[str, str] = {}
        about = {"date": today, "runs": runs, "machine": describe_machine(settings.home)}
        about |= {"not_measured": left_out}
        comparisons: list[Comparison] = []
        for name in only or BENCHMARKS:
            try:
                for comparison in BENCHMARKS[name](settings):
                    show(console, comparison)
                    comparisons.append(comparison)
                    # At once: who interrupts keeps what was seen.
                    write(target, comparisons, about | {"complete": False})
            except NotMeasuredError as error:
                left_out[name] = str(error)
                console.print(f"{name}: not measured: {error}")
    write(target, comparisons, about | {"complete": True})
    if not (only or tiny):
        plot(_PICTURE, comparisons)
    met, num_bars = count_met(comparisons)
    seconds = time.monotonic() - start
    console.print(f"{met} of {num_bars} bars met, {seconds:.0f} s, kept in benchmarks/results/{target.name}")


if __name__ == "__main__":
    main()
