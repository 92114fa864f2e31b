"""What each act upon a bucket promises under each fault: the table of `docs/crash-safety.md`, held to it.

Every cell ends within its deadline, leaves what was there before whole, and the act succeeds when it is done
again without the fault.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import LinnaeusError
from linnaeus.remote import open_remote
from linnaeus.resolving import describe_there, resolve_in
from linnaeus.saving import upload
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket

OK, REFUSED, FAILED, SLOW, DAMAGED, MISSING = "succeeds", "Auth", "Remote", "Timeout", "Corrupt", "NotFound"
ACTS = ("download", "large download", "ranged read", "upload", "listing", "delete")
OPERATION = {
    "download": "download",
    "large download": "download",
    "ranged read": "download",
    "upload": "upload",
    "listing": "list",
    "delete": "delete_file_version",
}
CUTS = tuple(f"cut at {tenth}/10" for tenth in range(10))
# Once is survived where another try can help; always is told as what it is.
TABLE: dict[str, tuple[str, str]] = {
    "403": (REFUSED, REFUSED),
    "401": (OK, FAILED),
    "429": (OK, FAILED),
    "500": (OK, FAILED),
    "503": (OK, FAILED),
    "refuse": (OK, FAILED),
    "stall": (OK, SLOW),
    "trickle": (OK, SLOW),
    "damage": (OK, DAMAGED),
    "wrong SHA-1": (OK, DAMAGED),
    "no SHA-1": (OK, OK),
    **dict.fromkeys(CUTS, (OK, FAILED)),
}
BODILESS = ("listing", "delete")  # answers of some hundred bytes, which tell of no digest
MEBIBYTE = 1 << 20


def checkpoint(size_bytes: int) -> bytes:
    """Return a checkpoint of about that size."""
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.arange(size_bytes // 4, dtype=torch.float32)}}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A checkpoint that is fetched over several streams."""
    return checkpoint(17 * MEBIBYTE)


@pytest.fixture
def server(b2: B2Server, large: bytes) -> B2Server:
    """A server with a small and a large checkpoint."""
    b2.put(BUCKET, f"{PREFIX}large.pth", large)
    return b2


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for an answer no longer than the idle deadline says: a bucket may ask rclone to wait, unheard."""
    monkeypatch.setattr("linnaeus.remote._session._WAITING_SECONDS", 2.0)
    monkeypatch.setattr("linnaeus.remote._retry._FIRST_WAIT_SECONDS", 0.01)


def act_upon(
    server: B2Server, tmp_path: Path, large: bytes, *, retries: int = 2
) -> dict[str, Callable[[], object]]:
    """Return the acts; each raises unless what it did is whole."""
    quick = {"RETRIES": retries, "IDLE_TIMEOUT_SECONDS": 0.6, "STREAMS": 1}
    bucket = b2_bucket(server, **quick)

    def fetch(name: str, expected: bytes) -> Callable[[], object]:
        def act() -> None:
            path = Path(resolve_in(name, str(tmp_path / "cache"), bucket))
            assert path.read_bytes() == expected

        return act

    def in_session(use: Callable[[Any], object]) -> Callable[[], object]:
        def act() -> object:
            with open_remote(bucket).session() as session:
                return use(session)

        return act

    def send() -> None:
        path = tmp_path / "sent.pth"
        if not path.exists():
            linnaeus.save({"model": {"w": torch.arange(100_000.0)}}, path)
        upload(path, bucket)
        assert server.objects(BUCKET)[f"{PREFIX}sent.pth"] == path.read_bytes()

    small = server.objects(BUCKET)[f"{PREFIX}x.pth"]

    def read(session: Any) -> None:
        assert session.read("x.pth", 1000, 200_000) == small[1000:201_000]

    def list_all(session: Any) -> None:
        assert {"x.pth", "large.pth"} <= {file.name for file in session.files()}

    def delete(session: Any) -> None:
        session.delete("large.pth")
        assert f"{PREFIX}large.pth" not in server.objects(BUCKET)

    return {
        "download": fetch("x.pth", small),
        "large download": fetch("large.pth", large),
        "ranged read": in_session(read),
        "upload": send,
        "listing": in_session(list_all),
        "delete": in_session(delete),
    }


def strike(server: B2Server, act: str, fault: str, times: int | None) -> None:
    """Put a fault in force."""
    if "SHA-1" in fault:
        for operation in ("upload",) if act == "upload" else ("head", "download"):
            server.fault(operation, f"{fault.split(' ')[0]}_checksum", times=times)  # type: ignore[arg-type]
        return
    kind: Any = int(fault) if fault.isdigit() else fault.split(" ")[0]
    after = None
    if fault in CUTS:
        body = {"large download": 5 * MEBIBYTE, "upload": 400_000, "listing": 500, "delete": 80}
        after = body.get(act, 200_000) * int(fault.split(" ")[2].split("/")[0]) // 10
    if fault in ("stall", "trickle", "damage"):
        after = 0 if act in BODILESS else 70_000
    server.fault(OPERATION[act], kind, times=times, after_bytes=after, retry_after=1 if kind == 429 else None)


def outcome(act: Callable[[], object]) -> str:
    """Return what became of an act."""
    try:
        act()
    except LinnaeusError as error:
        return type(error).__name__
    return OK


def expected(act: str, fault: str, which: int) -> str:
    """Return what a cell promises."""
    promised = TABLE[fault][which]
    exceptions = {
        # Each try brings more than a mebibyte, and the next goes on from there.
        ("large download", CUTS[5], 1): OK,
        # The answer is lost, the deed is done; the next try finds nothing left to do.
        ("delete", CUTS[5], 1): OK,
        ("delete", "stall", 1): OK,
        ("delete", "trickle", 1): OK,
        ("delete", "damage", 1): OK,
        # What can't be read as an answer says nothing of the file.
        ("listing", "damage", 1): FAILED,
    }
    return exceptions.get((act, fault, which), promised)


CELLS = [
    (act, fault)
    for act in ACTS
    for fault in TABLE
    if not (act in (*BODILESS, "ranged read") and "SHA-1" in fault)
    and not (act == "ranged read" and fault == "damage")  # below: a range by itself proves nothing
]


@pytest.mark.parametrize(("act", "fault"), CELLS)
def test_once_is_survived_where_trying_again_can_help(server, tmp_path, large, act, fault):
    """One strike: the act succeeds all the same, or refuses at once; then it succeeds."""
    acts = act_upon(server, tmp_path, large)
    strike(server, act, fault, times=1)
    found = outcome(acts[act])
    assert expected(act, fault, 0) in found
    server.clear_faults()
    assert found == OK or outcome(acts[act]) == OK


ALWAYS = [(act, fault) for act, fault in CELLS if fault not in CUTS or fault == CUTS[5]]


@pytest.mark.parametrize(("act", "fault"), ALWAYS)
def test_always_is_told_as_what_it_is(server, tmp_path, large, act, fault):
    """For good: the promised error within the deadlines, nothing half done; without the fault it succeeds."""
    acts = act_upon(server, tmp_path, large)
    before = server.objects(BUCKET)
    strike(server, act, fault, times=None)
    promised = expected(act, fault, 1)
    assert promised in outcome(acts[act])
    if promised != OK:
        assert server.objects(BUCKET) == before
        assert list(tmp_path.glob("cache/*.pth")) == []
    server.clear_faults()
    assert (act, fault) == ("upload", "no SHA-1") or outcome(acts[act]) == OK  # nothing proves it the same


@pytest.mark.parametrize("act", ACTS)
def test_a_token_that_expires_in_the_middle(server, tmp_path, large, act):
    """The body is cut, which costs a try, and the sign-in is valid no more, which costs another."""
    acts = act_upon(server, tmp_path, large, retries=3)
    server.fault(OPERATION[act], "expire", times=1)
    assert outcome(acts[act]) == OK
    assert server.count("authorize") > 1


@pytest.mark.parametrize("days", [-4000, 4000])
@pytest.mark.parametrize("act", ACTS)
def test_clocks_that_disagree(server, tmp_path, large, act, days):
    """The bucket's clock, and the times of files: nothing is decided by them."""
    server.set_clock(skew_seconds=days * 86400.0)
    if act != "delete":
        server.put(BUCKET, f"{PREFIX}large.pth", large)
    acts = act_upon(server, tmp_path, large)
    if act == "upload":
        linnaeus.save({"model": {"w": torch.arange(100_000.0)}}, tmp_path / "sent.pth")
        os.utime(tmp_path / "sent.pth", (max(0, time.time() - days * 86400),) * 2)
    assert outcome(acts[act]) == OK
    assert outcome(acts[act]) == OK


@pytest.mark.parametrize("times", [1, None])
def test_damage_of_a_range(server, tmp_path, times):
    """A look into a file proves what it reads: damage on the way is read again, damage there is told."""
    path = tmp_path / "made.pth"
    linnaeus.save({"model": {"w": torch.arange(100_000.0)}}, path)
    data = path.read_bytes()
    server.put(BUCKET, f"{PREFIX}made.pth", data)
    at = data.rindex(b'"tensors"')  # in the description
    server.fault("download", "damage", times=times, after_bytes=at)
    with open_remote(b2_bucket(server)).session() as session:
        found = outcome(lambda: describe_there(session, "made.pth", len(data)))
    assert (OK if times else DAMAGED) in found


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("act", ["ranged read", "listing", "delete"])
def test_a_bucket_that_is_deleted(server, tmp_path, large, act, when):
    """Before it is looked at, or while it is: it is not found, and there is nothing left to delete."""
    with open_remote(b2_bucket(server)).session() as session:
        if when == "meanwhile":
            assert session.files()
        server.drop_bucket(BUCKET)
        acts: dict[str, Callable[[], object]] = {
            "ranged read": lambda: session.read("x.pth", 0, 10),
            "listing": lambda: session.files(),
            "delete": lambda: session.delete("large.pth"),
        }
        found = outcome(acts[act])
    assert (found == OK) if act == "delete" else (MISSING in found)
    assert server.buckets() == []


@pytest.mark.parametrize("act", ["download", "large download", "ranged read", "upload", "listing"])
def test_a_bucket_that_is_gone(server, tmp_path, act):
    """Is not found; none is made."""
    bucket = b2_bucket(server, RETRIES=1, NAME="gone")
    path = tmp_path / "sent.pth"
    linnaeus.save({"model": {"w": torch.zeros(3)}}, path)

    def look(use: Callable[[Any], object]) -> object:
        with open_remote(bucket).session() as session:
            return use(session)

    acts: dict[str, Callable[[], object]] = {
        "download": lambda: resolve_in("x.pth", str(tmp_path / "cache"), bucket),
        "large download": lambda: open_remote(bucket).download("large.pth", tmp_path),
        "ranged read": lambda: look(lambda session: session.read("x.pth", 0, 10)),
        "upload": lambda: upload(path, bucket),
        "listing": lambda: look(lambda session: session.files()),
    }
    assert MISSING in outcome(acts[act])
    assert server.buckets() == [BUCKET]


@pytest.mark.parametrize("name", ["x.pth", "large.pth"])
def test_no_checksum_is_no_excuse(server, tmp_path, large, name):
    """Without a digest of the bucket, the file's own checksums find the damage."""
    server.fault("download", "no_checksum")
    server.fault("head", "no_checksum")
    server.fault("download", "damage", after_bytes=150_000)
    bucket = b2_bucket(server, RETRIES=1, STREAMS=1)
    assert DAMAGED in outcome(lambda: resolve_in(name, str(tmp_path / "cache"), bucket))
    assert list((tmp_path / "cache").glob("*.pth")) == []
