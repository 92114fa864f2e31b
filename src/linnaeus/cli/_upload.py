"""`linnaeus upload FILE...`: put checkpoints into the bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linnaeus.cli._errors import exit_code
from linnaeus.cli._format import size_text
from linnaeus.cli._options import Call, command
from linnaeus.errors import ConfigError, LinnaeusError

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig
    from linnaeus.saving import UploadReport

_EXAMPLE = """
linnaeus upload runs/digits/checkpoints/checkpoint_epoch_10.pth
linnaeus upload --set ENV.INPUT.BUCKET.NAME=my-bucket weights/*.pth
"""


@command(
    "upload",
    summary="Copy each FILE into the bucket under its own name.\n\n"
    "A file is checked before it is sent, and compared with what stands in the bucket afterwards. The same"
    " content is not sent again; other content under that name is replaced only with --force. The bucket is"
    " ENV.INPUT.BUCKET, enabled or not. When one file fails, the others are still sent.",
    example=_EXAMPLE,
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace other content that stands there under the same name.")
def upload(call: Call, *, files: tuple[Path, ...], force: bool) -> int:
    """Send files one after another; the exit code is that of the first failure."""
    bucket = _bucket(call)
    results: list[dict[str, Any]] = []
    codes: list[int] = []
    for file in files:
        try:
            report = _upload(call, file, bucket, force=force)
        except LinnaeusError as error:
            call.out.error(str(error))
            codes.append(exit_code(error))
            results.append({"path": str(file), "ok": False, "problem": str(error), "exit_code": codes[-1]})
        else:
            results.append({"path": str(file), "ok": True, **report.to_plain()})
    if call.as_json:
        call.out.json(results)
    return codes[0] if codes else 0


def _bucket(call: Call) -> BucketConfig:
    bucket = call.cfg.ENV.INPUT.BUCKET
    if not bucket.NAME:
        raise ConfigError(field="ENV.INPUT.BUCKET.NAME", expected="should name the bucket to upload to")
    return bucket


def _upload(call: Call, file: Path, bucket: BucketConfig, *, force: bool) -> UploadReport:
    from linnaeus import saving

    with call.out.transfers() as progress:
        report = saving.upload(file, bucket, force=force, progress=progress)
    if not call.as_json:
        done = "there already:" if report.was_there else "uploaded:"
        size = size_text(report.size_bytes)
        call.out.line(
            f"{report.name} in {report.place} ({size}, {report.verified_by} compared)",
            mark=done,
            style="green",
        )
    return report
