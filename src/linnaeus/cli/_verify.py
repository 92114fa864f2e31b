"""`linnaeus verify FILE...`: is each a whole and safe checkpoint?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from linnaeus.cli._errors import exit_code
from linnaeus.cli._format import count_text, size_text
from linnaeus.cli._named import named_file
from linnaeus.cli._options import Call, command
from linnaeus.errors import LinnaeusError

if TYPE_CHECKING:
    from linnaeus.pth import VerifyReport

_EXAMPLE = """
linnaeus verify runs/digits/checkpoints/*.pth
linnaeus verify --structure convnext_tiny_22k_1k_384.pth
linnaeus verify --deep --finite runs/digits/checkpoints/best.pth
"""


@command(
    "verify",
    summary="Check that each FILE is a whole and safe checkpoint.\n\n"
    "Every byte is read and compared with its checksum, where the format has one; with --finite, no floating"
    " tensor may hold NaN or infinities either. FILE is a path, or a name as for resolve. The exit code is"
    " that of the worst file.",
    example=_EXAMPLE,
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--structure", is_flag=True, help="Check only that everything is there; much faster for large files."
)
@click.option("--deep", is_flag=True, help="Check every byte; this is the default.")
@click.option("--finite", is_flag=True, help="Check too that floating tensors hold no NaN and no infinities.")
def verify(call: Call, *, files: tuple[str, ...], structure: bool, deep: bool, finite: bool) -> int:
    """Check files one after another; the exit code is that of the worst."""
    if structure and deep:
        raise click.UsageError("--structure and --deep exclude each other")
    results: list[dict[str, Any]] = []
    codes = [0]
    for name in files:
        try:
            report = _verify(call, name, content=not structure, finite=finite)
        except LinnaeusError as error:
            codes.append(exit_code(error))
            call.out.error(str(error))
            results.append({"path": name, "ok": False, "problem": str(error), "exit_code": codes[-1]})
            continue
        codes.append(0 if report.error is None else exit_code(report.error))
        results.append(report.to_plain() | {"exit_code": codes[-1]})
        if not call.as_json:
            _tell(call, name, report, content=not structure, finite=finite)
    if call.as_json:
        call.out.json(results)
    return max(codes)


def _verify(call: Call, name: str, *, content: bool, finite: bool) -> VerifyReport:
    from linnaeus import pth

    return pth.verify(named_file(name, call), content=content, finite=finite)


def _tell(call: Call, name: str, report: VerifyReport, *, content: bool, finite: bool) -> None:
    if report.error is not None:
        call.out.line(str(report.error), mark="BAD", style="bold red")
        return
    depth = "every byte checked" if report.checked == "content" else "structure checked"
    if content and report.checked != "content":
        depth += ", the file has no checksums"
    if finite:
        depth += ", all values finite"
    size = f"{size_text(report.size_bytes)}, {count_text(report.num_tensors, 'tensor')}"
    call.out.line(f"{name} ({report.kind}, {size}; {depth})", mark="ok ", style="bold green")
