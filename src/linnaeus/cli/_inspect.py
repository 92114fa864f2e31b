"""`linnaeus inspect FILE`: what a checkpoint holds, without loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from linnaeus.cli._format import count_text, metrics_text, share_text, size_text, time_text, value_text
from linnaeus.cli._named import named_file
from linnaeus.cli._options import Call, command

if TYPE_CHECKING:
    from linnaeus.pth import Description

_EXAMPLE = """
linnaeus inspect runs/digits/checkpoints/latest.pth
linnaeus inspect --all convnext_tiny_22k_1k_384.pth
linnaeus inspect --json checkpoint_epoch_10.pth
"""

# Shown in lines of their own, or of no use to a reader.
_KNOWN = ("epoch", "step", "step_in_epoch", "metrics", "lineage", "config", "config_digest")


@command(
    "inspect",
    summary="Show what the checkpoint FILE holds.\n\n"
    "First what it says of itself, then its tensors by module. Nothing is loaded and nothing in it is"
    " executed. FILE is a path, or a name as for resolve.",
    example=_EXAMPLE,
)
@click.argument("file", metavar="FILE")
@click.option(
    "--all", "everything", is_flag=True, help="List every tensor, those of optimizers and the like too."
)
def inspect(call: Call, *, file: str, everything: bool) -> None:
    """Show one file, also an unsafe one, which then is an error."""
    from linnaeus import pth

    found = pth.describe(named_file(file, call))
    if call.as_json:
        call.out.json(found.to_plain())
    else:
        _show(call, found, everything=everything)
    refusal = found.refusal()
    if refusal is not None:
        raise refusal


def _show(call: Call, found: Description, *, everything: bool) -> None:
    from linnaeus.cli._modules import modules_of, modules_table
    from linnaeus.cli._tables import facts

    call.out.show(facts(_facts(found)))
    if not found.tensors:
        return
    call.out.line("")
    call.out.show(modules_table(modules_of(found.tensors, fold=not everything)))


def _facts(found: Description) -> list[tuple[str, str]]:
    about = found.about
    tensors_bytes = sum(tensor.size_bytes for tensor in found.tensors)
    total = f"{count_text(len(found.tensors), 'tensor')}, {count_text(found.num_elements, 'element')}"
    return [
        ("file", str(found.path)),
        ("kind", found.kind),
        ("size", f"{size_text(found.size_bytes)} ({found.size_bytes:,} bytes)"),
        ("written", _written(found.written)),
        ("epoch", _plain_value(about.get("epoch"))),
        ("step", _step(about)),
        ("metrics", _metrics(about.get("metrics"))),
        *_lineage(about.get("lineage")),
        *((name, _plain_value(value)) for name, value in about.items() if name not in _KNOWN),
        ("config", _digest(about.get("config_digest"))),
        ("keys", ", ".join(found.keys)),
        ("tensors", f"{total}, {size_text(tensors_bytes)}"),
    ]


def _written(written: dict[str, Any]) -> str:
    if not written:
        return ""
    when = time_text(str(written.get("created", "")))
    return f"{when} UTC by linnaeus {written.get('linnaeus')}, torch {written.get('torch')}"


def _step(about: dict[str, Any]) -> str:
    inside = about.get("step_in_epoch")
    step = _plain_value(about.get("step"))
    return f"{step} ({inside} in the epoch under way)" if step and inside else step


def _metrics(metrics: object) -> str:
    return metrics_text(metrics) if isinstance(metrics, dict) else _plain_value(metrics)


def _lineage(lineage: object) -> list[tuple[str, str]]:
    """Return where the weights come from: each origin with what the run said of it."""
    return (
        [(name.replace("_", " "), _origin(told)) for name, told in lineage.items()]
        if isinstance(lineage, dict)
        else []
    )


def _origin(told: object) -> str:
    """Return a report of pretrained weights in short: its sources and how much of them arrived."""
    sources = told.get("sources") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(sources, list):
        return _plain_value(told)
    names = [str(source.get("identifier")) for source in sources if isinstance(source, dict)]
    coverage = told.get("coverage")
    share = f" ({share_text(coverage)} arrived)" if isinstance(coverage, float) else ""
    return f"{' and '.join(names)}{share}"


def _plain_value(value: object) -> str:
    return "" if value is None else value_text(value)


def _digest(digest: object) -> str:
    return f"digest {digest[:16]}; all of it: --json" if isinstance(digest, str) else ""
