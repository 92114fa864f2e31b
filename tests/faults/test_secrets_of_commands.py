"""No command shows a credential, whatever it meets and however much it is asked to tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from linnaeus.cli import main
from linnaeus.cli._main import _COMMANDS
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX
from support.directories import content
from support.small_run import SmallRun, config, train

MARK = "MARKED"
KEY_ID = "0012MARKEDKEYIDMARKED"
KEY = "K001MARKED/KEY+MARKED"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
FAULTS = {
    "none": None,
    "refused": ("authorize", 401),
    "forbidden": ("*", 403),
    "cut": ("*", "cut"),
}
# Every command, and what it reaches the buckets by.
CALLS = (
    ("resolve", "x.pth"),
    ("resolve", "nosuch.pth"),
    ("upload", "made/x.pth"),
    ("ls",),
    ("ls", "--remote"),
    ("ls", "--remote", "--json"),
    ("ls", "--remote", "--run"),
    ("inspect", "x.pth"),
    ("verify", "x.pth"),
    ("diff", "x.pth", "nosuch.pth"),
    ("convert", "x.pth", "out.safetensors"),
    ("stitch", "stitched_convnext_ropevit", "--dry-run"),
    ("load-report", "y.pth"),
    ("prune", "--dry-run"),
    ("prune", "--remote"),
    ("pin", "run/checkpoint_epoch_1.pth"),
    ("push",),
    ("pull", "blank"),
    ("lock", "linnaeus.yaml"),
    ("cache", "ls"),
    ("cache", "verify"),
    ("cache", "prune", "--older-than", "1d"),
    ("train",),
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, checkpoint_bytes: bytes) -> Iterator[B2Server]:
    """A server whose credentials are easily recognised, in nobody's environment."""
    with B2Server(buckets=[BUCKET], key_id=KEY_ID, key=KEY) as running:
        running.put(BUCKET, f"{PREFIX}x.pth", checkpoint_bytes)
        running.put(BUCKET, f"{PREFIX}y.pth", checkpoint_bytes)
        yield running


@pytest.fixture
def place(server, tmp_path, monkeypatch, checkpoint_bytes):
    """A directory with a run, a file to upload, and a config that names both buckets."""
    train(config(tmp_path / "run", EPOCHS=1), SmallRun())
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x.pth").write_bytes(checkpoint_bytes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(server: B2Server, place: Path, **keys: str) -> None:
    """Write linnaeus.yaml: quick to fail, and to train for no epoch."""
    bucket = {"ENABLED": True, "NAME": BUCKET, "ENDPOINT": server.endpoint, "RETRIES": 1, **keys}
    plain = yaml.safe_load(QUICKSTART.read_text())
    output = bucket | {"PATH_PREFIX": "runs/r/", "CLOSE_TIMEOUT_SECONDS": 2.0}
    plain["ENV"] = {
        "INPUT": {"CACHE_DIR": str(place / "cache"), "BUCKET": bucket},
        "OUTPUT": {"DIRS": {"CHECKPOINTS": str(place / "run")}, "BUCKET": output},
    }
    plain["TRAIN"]["EPOCHS"] = 0
    plain["MODEL"]["PRETRAINED"] = "y.pth"
    (place / "linnaeus.yaml").write_text(yaml.safe_dump(plain))


@pytest.mark.filterwarnings("ignore:.*a poor place for credentials")
@pytest.mark.parametrize("where", ["environment", "config"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_no_command_shows_a_credential(server, place, monkeypatch, capfd, fault, where):
    """Not on standard output, not on standard error at its most verbose, not in a file that it writes."""
    assert {call[0] for call in CALLS} == set(_COMMANDS)
    if where == "config":
        write_config(server, place, APP_KEY_ID=KEY_ID, APP_KEY=KEY)
    else:
        write_config(server, place)
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
    if fault:
        server.fault(*fault)
    codes = {}
    for call in CALLS:
        codes[call] = main([*call, "--debug"])
        shown = capfd.readouterr()
        assert shown.out + shown.err, call
        assert MARK not in shown.out + shown.err, call
    expected = {None: 0, ("authorize", 401): 5, ("*", 403): 4, ("*", "cut"): 5}
    assert codes["ls", "--remote"] == expected[fault]
    files = {name: data for name, data in content(place).items() if name != "linnaeus.yaml"}
    assert [name for name, data in files.items() if MARK.encode() in data] == []
    assert [name for name, data in server.objects(BUCKET).items() if MARK.encode() in data] == []
