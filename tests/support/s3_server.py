"""`rclone serve s3` on loopback: an S3 server that others wrote, over a directory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "AKIALINNAEUSTEST"
SECRET_KEY = "s3cretLinnaeusTestKey"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server; each directory in `root` is a bucket."""

    endpoint: str
    root: Path

    def config_text(self, remote: str, *, secret: str = SECRET_KEY) -> str:
        """Return the section of rclone.conf that defines `remote`."""
        return (
            f"[{remote}]\ntype = s3\nprovider = Rclone\nendpoint = {self.endpoint}\n"
            f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {secret}\n"
        )


@contextlib.contextmanager
def serve_s3(root: Path) -> Iterator[S3Server]:
    """Run the server on a free port until the block ends."""
    program = f"{sysconfig.get_path('scripts')}/rclone"
    arguments = [program, "serve", "s3", "--addr=127.0.0.1:0", f"--auth-key={ACCESS_KEY},{SECRET_KEY}"]
    arguments += ["--use-json-log", "--config=", str(root)]
    with subprocess.Popen(
        arguments, env={"PATH": os.environ["PATH"], "HOME": str(root)}, stderr=subprocess.PIPE
    ) as process:
        try:
            yield S3Server(_announced(process), root)
        finally:
            process.kill()


def _announced(process: subprocess.Popen[bytes]) -> str:
    """Return the address that the server says it listens on."""
    assert process.stderr is not None
    for line in process.stderr:
        message = json.loads(line)["msg"]
        if message.startswith("Starting s3 server on ["):
            return str(message.partition("[")[2].partition("]")[0].rstrip("/"))
    raise RuntimeError("rclone serve s3 did not start")
