"""Directories of shards in a run's bucket: sent with the commit file last, pruned, and gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus import pth
from linnaeus.config import OutputBucketConfig
from linnaeus.errors import RemoteConflictError
from linnaeus.remote import open_remote
from linnaeus.resolving import describe
from linnaeus.resuming import choose_newest
from linnaeus.saving import upload
from support.b2_server import B2Server
from support.buckets import BUCKET
from support.program import linnaeus as program
from support.small_run import SmallRun, config, train
from support.trees import same

RUN = "runs/small/"


def bucket_of(server: B2Server, **changes: Any) -> dict[str, Any]:
    """Return ENV.OUTPUT.BUCKET for a run on the server."""
    found = {"ENABLED": True, "NAME": BUCKET, "PATH_PREFIX": RUN, "ENDPOINT": server.endpoint}
    return found | {"RETRIES": 2, "CLOSE_TIMEOUT_SECONDS": 150.0} | changes


def run_config(directory: Path, bucket: dict[str, Any], **settings: Any) -> linnaeus.Config:
    """Return the config of a small run with a bucket, saved as shards."""
    plain = config(directory, **{"FORMAT": "sharded"} | settings).to_plain()
    plain["ENV"]["OUTPUT"]["BUCKET"] = bucket
    return linnaeus.Config.from_plain(plain)


def there(server: B2Server) -> dict[str, bytes]:
    """Return the run's objects."""
    objects = server.objects(BUCKET).items()
    return {name.removeprefix(RUN): data for name, data in objects if name.startswith(RUN)}


def folders(server: B2Server) -> list[str]:
    """Return the names of the run's directories."""
    return sorted({name.split("/")[0] for name in there(server)})


def test_every_kept_checkpoint_arrives_whole_and_the_others_go(b2: B2Server, tmp_path: Path) -> None:
    """When close returns, the bucket holds what its rules keep, equal to the last byte; nothing else."""
    directory = tmp_path / "run"
    bucket = bucket_of(b2, KEEP_LAST_N=2, KEEP_TOP_N=0)
    train(run_config(directory, bucket, KEEP_LAST_N=3, KEEP_TOP_N=0, EPOCHS=4), SmallRun())
    assert folders(b2) == ["checkpoint_epoch_3.sharded", "checkpoint_epoch_4.sharded"]
    for name, data in there(b2).items():
        assert (directory / name).read_bytes() == data
    assert {name.split("/")[1] for name in there(b2)} >= {".metadata", "linnaeus.json"}


def test_the_commit_file_is_sent_last_and_removed_first(b2: B2Server, tmp_path: Path) -> None:
    """In the order of the server's requests, for each directory."""
    directory = tmp_path / "run"
    train(config(directory, FORMAT="sharded", EPOCHS=2, KEEP_LAST_N=0, KEEP_TOP_N=0), SmallRun())
    bucket = bucket_of(b2, KEEP_LAST_N=0, KEEP_TOP_N=0)
    assert push(tmp_path, directory, bucket).code == 0
    for name in ("checkpoint_epoch_1.sharded", "checkpoint_epoch_2.sharded"):
        sent = asked(b2, "upload", name)
        assert sent[-1] == f"{name}/linnaeus.json"
        assert set(sent) == {f"{name}/{file.name}" for file in (directory / name).iterdir()}
    few = bucket_of(b2, KEEP_LAST_N=1, KEEP_TOP_N=0)
    assert push(tmp_path, directory, few, "prune", str(directory), "--remote").code == 0
    gone = asked(b2, "delete_file_version", "checkpoint_epoch_1.sharded")
    assert gone[0] == "checkpoint_epoch_1.sharded/linnaeus.json"
    assert set(gone) == set(asked(b2, "upload", "checkpoint_epoch_1.sharded"))
    assert folders(b2) == ["checkpoint_epoch_2.sharded"]


def asked(server: B2Server, operation: str, folder: str) -> list[str]:
    """Return the names of a folder that were asked for by an operation, in order."""
    records = [record for record in server.requests if record.operation == operation]
    names = [record.name.removeprefix(RUN) for record in records]
    return [name for name in names if name.startswith(f"{folder}/")]


def test_a_blank_machine_goes_on_bit_for_bit(b2: B2Server, tmp_path: Path) -> None:
    """Its directory lost: the same command ends as if nothing had happened."""
    whole = SmallRun()
    train(config(tmp_path / "whole", EPOCHS=4), whole)
    expected = whole.state()
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2), INTERVAL_STEPS=3, EPOCHS=4)
    train(cfg, SmallRun(), stop_after=13).close()
    shutil.rmtree(directory)
    resumed = SmallRun()
    assert train(cfg, resumed).progress.epoch == 4
    assert same(expected, resumed.state())


def test_what_is_unfinished_or_damaged_there_is_passed_over(b2: B2Server, tmp_path: Path) -> None:
    """Without its commit file, with a shard missing, cut or altered: the next newest is gone on from."""
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2, KEEP_LAST_N=0, KEEP_TOP_N=0), EPOCHS=3)
    train(cfg, SmallRun())
    shutil.rmtree(directory)
    newest = f"{RUN}checkpoint_epoch_3.sharded/"
    whole = {name: data for name, data in b2.objects(BUCKET).items() if name.startswith(newest)}
    shard = max(whole, key=lambda name: len(whole[name]))
    damages = {
        f"{newest}linnaeus.json": (None, whole[f"{newest}linnaeus.json"][:-3]),
        shard: (whole[shard][:-1], whole[shard][:-1] + b"x"),
    }
    for name, contents in damages.items():
        for content in contents:
            if content is None:
                with open_remote(OutputBucketConfig(**bucket_of(b2))).session() as session:
                    session.delete(name.removeprefix(RUN))
            else:
                b2.put(BUCKET, name, content)
            remote = open_remote(OutputBucketConfig(**bucket_of(b2)))
            choice = choose_newest(directory, remote)
            assert choice is not None
            assert choice.path.name == "checkpoint_epoch_2.sharded", name
            shutil.rmtree(directory)
            b2.put(BUCKET, name, whole[name])
    assert choose_newest(directory, remote).path.name == "checkpoint_epoch_3.sharded"


def test_an_interrupted_upload_is_gone_on_with(b2: B2Server, tmp_path: Path) -> None:
    """What is there already is not sent again; the commit file makes it whole."""
    directory = tmp_path / "run"
    train(config(directory, FORMAT="sharded", EPOCHS=1), SmallRun())
    bucket = OutputBucketConfig(**bucket_of(b2))
    path = directory / "checkpoint_epoch_1.sharded"
    for file in [path / one for one in pth.files_told_of(path)][:2]:
        open_remote(bucket).send(file, f"{path.name}/{file.name}")
    b2.reset_counts()
    done = push(tmp_path, directory, bucket_of(b2))
    assert done.code == 0, done.err
    sent = [record.name for record in b2.requests if record.operation == "upload"]
    assert [name.rpartition("/")[2] for name in sent] == [*pth.files_told_of(path)][2:]
    assert there(b2)[f"{path.name}/linnaeus.json"] == (path / "linnaeus.json").read_bytes()


def push(tmp_path: Path, directory: Path, bucket: dict[str, Any], *words: str) -> Any:
    """Run a command of the program on a run's bucket."""
    found = {key: value for key, value in bucket.items() if key != "CLOSE_TIMEOUT_SECONDS"}
    settings = [f"ENV.OUTPUT.BUCKET={json.dumps(found)}"]
    words = words or ("push", str(directory))
    options = [word for setting in settings for word in ("--set", setting)]
    return program(*words, *options, cwd=tmp_path)


def test_commands_know_directories(b2: B2Server, tmp_path: Path) -> None:
    """push, ls --remote --run and pull of a run; upload, resolve and describe by name, as for files."""
    directory = tmp_path / "run"
    train(config(directory, FORMAT="sharded", EPOCHS=1), SmallRun())
    bucket = bucket_of(b2)
    assert push(tmp_path, directory, bucket).code == 0
    listed = push(tmp_path, directory, bucket, "ls", str(directory), "--remote", "--run", "--json")
    found = json.loads(listed.out)["checkpoints"]
    assert [(one["name"], one["state"]) for one in found] == [("checkpoint_epoch_1.sharded", "arrived")]
    path = directory / "checkpoint_epoch_1.sharded"
    before = pth.load(path)
    shutil.move(path, tmp_path / "kept.sharded")
    assert push(tmp_path, directory, bucket, "pull", str(directory)).code == 0
    assert same(pth.load(path)["model"], before["model"])
    plain = linnaeus.Config().to_plain()
    plain["ENV"]["INPUT"] = {"CACHE_DIR": str(tmp_path / "cache")}
    plain["ENV"]["INPUT"]["BUCKET"] = {k: v for k, v in bucket.items() if "TIMEOUT" not in k}
    cfg = linnaeus.Config.from_plain(plain)
    for was_there in (False, True):
        assert upload(tmp_path / "kept.sharded", cfg.ENV.INPUT.BUCKET).was_there is was_there
    assert describe("kept.sharded", cfg).about["epoch"] == 1
    assert same(pth.load(linnaeus.resolve("kept.sharded", cfg))["model"], before["model"])
    pth.save_sharded({"w": torch.ones(2)}, tmp_path / "kept.sharded")
    with pytest.raises(RemoteConflictError):
        upload(tmp_path / "kept.sharded", cfg.ENV.INPUT.BUCKET)
