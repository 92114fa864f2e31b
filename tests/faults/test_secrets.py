"""Credentials appear in no argument, log line, error or file, whatever happens."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

import linnaeus
from linnaeus.config import BucketConfig
from linnaeus.errors import LinnaeusError
from linnaeus.remote import open_remote
from linnaeus.resolving import resolve_in
from linnaeus.saving import upload
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import content
from support.processes import children, resolving, wait_until
from support.small_run import SmallRun, config

KEY_ID = "0012MARKEDKEYIDMARKED"
KEY = "K001MARKED/KEY+MARKED"
MARK = "MARKED"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, checkpoint_bytes: bytes) -> Iterator[B2Server]:
    """A server whose credentials are easily recognised, in the environment."""
    with B2Server(buckets=[BUCKET], key_id=KEY_ID, key=KEY) as running:
        running.put(BUCKET, f"{PREFIX}x.pth", checkpoint_bytes)
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        yield running


def everything_of(error: LinnaeusError) -> str:
    """Return every form in which an error may be shown or stored, with its causes."""
    forms = [str(error), repr(error), repr(error.args), repr(error.fields()), repr(vars(error))]
    forms += [repr(pickle.dumps(error)), "".join(traceback.format_exception(error))]
    return "\n".join(forms)


@dataclass
class Scenario:
    """What goes wrong, if anything, and with which settings."""

    fault: tuple[object, ...] | None = None
    settings: dict[str, object] | None = None
    name: str = "x.pth"


SCENARIOS = {
    "success": Scenario(),
    "not there": Scenario(name="y.pth"),
    "no bucket": Scenario(settings={"NAME": "nosuch"}),
    "refused": Scenario(("authorize", 403)),
    "expired": Scenario(("authorize", 401)),
    "cap": Scenario(("*", "download_cap_exceeded")),
    "unavailable": Scenario(("*", 503), {"RETRIES": 2}),
    "gone": Scenario(settings={"ENDPOINT": f"http://user:{MARK}pass@127.0.0.1:9"}),
    "stall": Scenario(("*", "stall"), {"IDLE_TIMEOUT_SECONDS": 0.5}),
    "cut": Scenario(("*", "cut", 10)),
    "damage": Scenario(("download", "damage")),
}


def prepared(server: B2Server, scenario: Scenario) -> BucketConfig:
    """Put the fault in force, and return the configuration."""
    if scenario.fault is not None:
        operation, kind, *after = scenario.fault
        server.fault(operation, kind, after_bytes=after[0] if after else None)
    return b2_bucket(server, **(scenario.settings or {}))


def shown(act: Callable[[], object]) -> str:
    """Return all that is to be seen of what an act returns or raises."""
    try:
        return repr(act())
    except LinnaeusError as error:
        return everything_of(error)


@pytest.mark.parametrize("in_config", [False, True], ids=["environment", "config"])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_resolve_shows_no_secret(server, cache, caplog, monkeypatch, scenario, in_config):
    """Whether it succeeds or fails: not in the error or its pickle, not in the log, not in the cache."""
    caplog.set_level(logging.DEBUG)
    bucket = prepared(server, scenario)
    if in_config:
        bucket = bucket.model_copy(update={"APP_KEY_ID": SecretStr(KEY_ID), "APP_KEY": SecretStr(KEY)})
        for name in server.env():
            monkeypatch.delenv(name)
    seen = shown(lambda: resolve_in(scenario.name, str(cache), bucket))
    assert MARK not in seen
    assert caplog.records or scenario.fault is None
    assert MARK not in caplog.text + repr([vars(record) for record in caplog.records])
    assert [name for name, data in content(cache).items() if MARK.encode() in data] == []


def test_a_wrong_key_is_not_shown(server, cache, caplog, monkeypatch):
    """A mistyped key is as secret as the right one."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("B2_APPLICATION_KEY", f"K002{MARK}WRONG")
    assert MARK not in shown(lambda: resolve_in("x.pth", str(cache), b2_bucket(server)))
    assert MARK not in caplog.text


@pytest.mark.parametrize(
    ("fault", "replaced"),
    [(None, False), (None, True), (("upload", "storage_cap_exceeded"), True), (("upload", "cut"), True)],
)
def test_an_upload_shows_no_secret(server, caplog, checkpoint_file, other_checkpoint_bytes, fault, replaced):
    """Sent, in conflict, refused or cut: neither the report, the error nor the log shows it."""
    caplog.set_level(logging.DEBUG)
    if replaced:
        server.put(BUCKET, f"{PREFIX}x.pth", other_checkpoint_bytes)
    if fault:
        server.fault(*fault)
    assert MARK not in shown(lambda: upload(checkpoint_file, b2_bucket(server), force=fault is not None))
    assert MARK not in caplog.text


def test_no_process_has_a_secret_among_its_arguments(server, cache, tmp_path):
    """Arguments are visible to every user of the machine; the key goes through the environment alone."""
    server.fault("download", "stall")
    with resolving(1) as (process,):
        process.start("x.pth", cache, b2_bucket(server, IDLE_TIMEOUT_SECONDS=30.0), log=tmp_path / "log")
        wait_until(lambda: server.count("download") == 1)
        (transfer,) = children(process.pid)
        arguments = Path(f"/proc/{transfer.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{transfer.pid}/environ").read_bytes()
    assert b"operations/copyfile" in arguments
    assert MARK.encode() not in arguments
    assert environment.count(KEY.encode()) == environment.count(KEY_ID.encode()) == 1
    assert MARK not in (tmp_path / "log").read_text()
    assert [name for name, data in content(cache).items() if MARK.encode() in data] == []


def test_a_session_has_no_secret_among_its_arguments(server, caplog):
    """Nor among what it logs, also at its most verbose; its socket's directory is its owner's alone."""
    caplog.set_level(logging.DEBUG)
    with open_remote(b2_bucket(server, RETRIES=1)).session() as session:
        session.files()
        (transfer,) = children(os.getpid())
        arguments = Path(f"/proc/{transfer.pid}/cmdline").read_bytes()
        said = repr(list(session.daemon._messages))
        server.fault("download", 403)
        seen = shown(lambda: session.read("x.pth", 0, 1000))
    assert b"rcd" in arguments
    assert MARK.encode() not in arguments
    assert MARK not in said + seen + caplog.text


@pytest.mark.parametrize(
    "fault", [None, ("upload", 403), ("upload", "cut"), ("list", 503), ("authorize", 401)]
)
def test_a_run_that_is_copied_shows_no_secret(server, tmp_path, caplog, fault):
    """Not in its checkpoints, its errors, its log, nor in the bucket."""
    caplog.set_level(logging.DEBUG)
    plain = config(tmp_path / "run", EPOCHS=1).to_plain()
    output = {"ENABLED": True, "NAME": BUCKET, "PATH_PREFIX": "runs/r/", "ENDPOINT": server.endpoint}
    plain["ENV"]["OUTPUT"]["BUCKET"] = output | {
        "RETRIES": 1,
        "CLOSE_TIMEOUT_SECONDS": 3.0,
    }
    cfg = linnaeus.Config.from_plain(plain)
    ckpt = linnaeus.CheckpointManager(cfg, **SmallRun().parts())
    if fault:
        server.fault(*fault)

    def save_and_close() -> None:
        ckpt.end_epoch({"loss": 1.0})
        ckpt.close()

    assert MARK not in shown(save_and_close)
    assert MARK not in caplog.text + repr([vars(record) for record in caplog.records])
    assert [name for name, data in content(tmp_path / "run").items() if MARK.encode() in data] == []
    assert [name for name, data in server.objects(BUCKET).items() if MARK.encode() in data] == []
