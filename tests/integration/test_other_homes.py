"""Every home that rclone reaches serves as well; so do web servers, by a digest, and the hub."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import ssl
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import linnaeus
from linnaeus.errors import (
    CheckpointNotFoundError,
    ConfigError,
    IdentifierError,
    PinMismatchError,
    RemoteError,
)
from linnaeus.resolving import lock, resolve, resolve_in
from linnaeus.saving import upload
from support.buckets import BUCKET, PREFIX, b2_bucket, remote_bucket
from support.s3_server import serve_s3
from support.small_run import SmallRun, config, train

RCLONE = f"{sysconfig.get_path('scripts')}/rclone"
PASSWORD = "markedPassw0rd"


@contextlib.contextmanager
def served(kind: str, root: Path) -> Iterator[str]:
    """Run `rclone serve` for a directory; return the section of rclone.conf that reaches it."""
    options = ["--user=u", f"--pass={PASSWORD}"]
    process = subprocess.Popen(
        [
            RCLONE,
            "serve",
            kind,
            "--addr=127.0.0.1:0",
            "--use-json-log",
            "-v",
            "--config=",
            *options,
            str(root),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(root.parent)},
        stderr=subprocess.PIPE,
    )
    try:
        address = _address(process)
        hidden = subprocess.run(
            [RCLONE, "obscure", PASSWORD], capture_output=True, text=True, check=True
        ).stdout
        login = f"user = u\npass = {hidden}"
        if kind == "webdav":
            yield f"[home]\ntype = webdav\nurl = http://{address}\nvendor = rclone\n{login}"
        else:
            host, _, port = address.rpartition(":")
            yield f"[home]\ntype = sftp\nhost = {host}\nport = {port}\n{login}"
    finally:
        process.kill()
        process.communicate()


def _address(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        said = json.loads(line)["msg"]
        for mark in ("http://", "listening on "):
            if mark in said:
                return str(said.partition(mark)[2].split()[0].strip("/[],"))
    raise RuntimeError("rclone serve did not start")


@pytest.fixture(params=["s3", "sftp", "webdav"])
def home(request, tmp_path, monkeypatch) -> Iterator[Path]:
    """A home that is the remote `home:` of rclone.conf; the directory that it serves."""
    root = tmp_path / "served"
    (root / BUCKET / PREFIX).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        if request.param == "s3":
            text = stack.enter_context(serve_s3(root)).config_text("home")
        else:
            text = stack.enter_context(served(request.param, root))
        (tmp_path / "rclone.conf").write_text(text)
        monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
        yield root


def large(path: Path) -> Path:
    """Write a checkpoint of 20 MiB."""
    import torch

    linnaeus.save({"model": {"w": torch.randn(5 << 20)}}, path)
    return path


def test_small_and_large_files_go_there_and_back(home, tmp_path, checkpoint_file, cache):
    """Whatever the home can do with ranges and digests."""
    for file in (checkpoint_file, large(tmp_path / "large.pth")):
        upload(file, remote_bucket("home"))
        assert (home / BUCKET / PREFIX / file.name).read_bytes() == file.read_bytes()
        assert (
            Path(resolve_in(file.name, str(cache), remote_bucket("home"))).read_bytes() == file.read_bytes()
        )


def test_a_run_lives_there(home, tmp_path):
    """Copied beside training, pruned there, and resumed from there on a blank machine."""
    plain = config(tmp_path / "run", EPOCHS=3).to_plain()
    plain["ENV"]["OUTPUT"]["BUCKET"] = {
        "ENABLED": True,
        "REMOTE": "home",
        "NAME": BUCKET,
        "PATH_PREFIX": "runs/r/",
        "KEEP_LAST_N": 1,
        "KEEP_TOP_N": 0,
        "CLOSE_TIMEOUT_SECONDS": 60.0,
    }
    cfg = linnaeus.Config.from_plain(plain)
    train(cfg, SmallRun())
    assert [path.name for path in (home / BUCKET / "runs/r").glob("*.pth")] == ["checkpoint_epoch_3.pth"]
    plain["ENV"]["OUTPUT"]["DIRS"]["CHECKPOINTS"] = str(tmp_path / "blank")
    with linnaeus.CheckpointManager(linnaeus.Config.from_plain(plain), **SmallRun().parts()) as ckpt:
        assert ckpt.resume().epoch == 3


@pytest.fixture
def website(tmp_path, checkpoint_bytes, monkeypatch) -> Iterator[str]:
    """A web server with a certificate that rclone is told to trust; the URL of x.pth on it."""
    (tmp_path / "www" / "zoo").mkdir(parents=True)
    (tmp_path / "www" / "zoo" / "x.pth").write_bytes(checkpoint_bytes)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    making += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(making, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/zoo/x.pth"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_file_of_a_web_server_is_held_to_its_digest(website, b2, cache, checkpoint_bytes):
    """Fetched once, kept under a name with its digest; without one, or with another, refused."""
    digest = hashlib.sha256(checkpoint_bytes).hexdigest()
    path = Path(resolve_in(f"{website}@sha256:{digest}", str(cache), b2_bucket(b2)))
    assert path.read_bytes() == checkpoint_bytes
    assert path.name == f"x-{digest[:12]}.pth"
    assert resolve_in(f"{website}@sha256:{digest}", str(cache), b2_bucket(b2), offline=True) == str(path)
    with pytest.raises(IdentifierError, match="linnaeus lock"):
        resolve_in(website, str(cache), b2_bucket(b2))
    with pytest.raises(PinMismatchError, match=digest):
        resolve_in(f"{website}@sha256:{'0' * 64}", str(cache), b2_bucket(b2))
    assert [p.name for p in cache.glob("*.pth")] == [path.name]


def test_a_lock_may_record_it(website, tmp_path, cache, checkpoint_bytes):
    """From then on the URL alone is enough."""
    (tmp_path / "exp.yaml").write_text(
        f"ENV: {{INPUT: {{CACHE_DIR: {cache}}}}}\nMODEL: {{PRETRAINED: '{website}'}}\n"
    )
    lock(linnaeus.load_config(tmp_path / "exp.yaml"), tmp_path / "exp.yaml")
    path = resolve(website, linnaeus.load_config(tmp_path / "exp.yaml"))
    assert path.read_bytes() == checkpoint_bytes
    assert [p.name for p in cache.glob("*.pth")] == [path.name]


@pytest.mark.parametrize(
    "url", ["ftp://h/x.pth", "https://h/x.pth?token=1", "https://u:p@h/x.pth", "hf://org/x"]
)
def test_other_urls_are_refused(url, b2, cache):
    """Before anybody is asked, and without showing what may be a secret."""
    with pytest.raises((IdentifierError, ConfigError)) as caught:
        resolve_in(f"{url}@sha256:{'0' * 64}", str(cache), b2_bucket(b2))
    assert "token=1" not in str(caught.value)


def test_what_a_web_server_has_not_is_not_found(website, b2, cache):
    """As for any other place."""
    with pytest.raises((CheckpointNotFoundError, RemoteError)):
        resolve_in(f"{website}x@sha256:{'0' * 64}", str(cache), b2_bucket(b2))


@pytest.fixture
def hub(checkpoint_bytes, tmp_path) -> Iterator[str]:
    """A server that answers as the hub does, for org/repo with x.pth at its revision v1."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            if self.path != "/org/repo/resolve/v1/x.pth":
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(checkpoint_bytes).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(checkpoint_bytes)))
            self.end_headers()
            if body:
                self.wfile.write(checkpoint_bytes)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_own_process(hub: str, home: Path, code: str) -> str:
    """Run code where HF_ENDPOINT is set before anything is imported; return what it prints."""
    import sys

    env = {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_RESOLVE = """
from linnaeus.config import BucketConfig
from linnaeus.errors import LinnaeusError
from linnaeus.resolving import resolve_in
try:
    print(resolve_in({identifier!r}, {cache!r}, BucketConfig(), offline={offline}))
except LinnaeusError as error:
    print(type(error).__name__)
"""


def test_a_file_of_the_hub(hub, tmp_path, cache, checkpoint_bytes):
    """Fetched at its revision, found again offline, held to a digest where one is given."""
    pytest.importorskip("huggingface_hub")

    def told(identifier: str, *, offline: bool = False) -> str:
        code = _RESOLVE.format(identifier=identifier, cache=str(cache), offline=offline)
        return in_own_process(hub, tmp_path / "hf", code)

    digest = hashlib.sha256(checkpoint_bytes).hexdigest()
    path = told("hf://org/repo/x.pth@v1")
    assert Path(path).read_bytes() == checkpoint_bytes
    assert told(f"hf://org/repo/x.pth@v1@sha256:{digest}", offline=True) == path
    assert told(f"hf://org/repo/x.pth@v1@sha256:{'0' * 64}") == "PinMismatchError"
    assert told("hf://org/repo/y.pth@v1") == "CheckpointNotFoundError"
