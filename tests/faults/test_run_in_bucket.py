"""A run whose checkpoints are copied to a bucket: the loss of its machine costs nothing that has arrived."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import linnaeus
from linnaeus.config import OutputBucketConfig
from linnaeus.errors import RemoteError, RemoteNotFoundError
from linnaeus.remote import open_in_background
from linnaeus.runs import list_checkpoints
from linnaeus.saving import Retention
from linnaeus.saving._copies import Copies
from linnaeus.saving._mirror import Mirror
from support.b2_server import B2Server
from support.buckets import BUCKET
from support.processes import children
from support.small_run import SmallRun, config, train
from support.trees import same

RUN = "runs/small/"


def bucket_of(server: B2Server, **changes: Any) -> dict[str, Any]:
    """Return ENV.OUTPUT.BUCKET for a run on the server."""
    return {
        "ENABLED": True,
        "NAME": BUCKET,
        "PATH_PREFIX": RUN,
        "ENDPOINT": server.endpoint,
        "RETRIES": 3,
        "CONNECT_TIMEOUT_SECONDS": 20.0,
        "IDLE_TIMEOUT_SECONDS": 30.0,
        "CLOSE_TIMEOUT_SECONDS": 150.0,
    } | changes


def run_config(directory: Path, bucket: dict[str, Any], **settings: Any) -> linnaeus.Config:
    """Return the config of a small run with a bucket."""
    plain = config(directory, **settings).to_plain()
    plain["ENV"]["OUTPUT"]["BUCKET"] = bucket
    return linnaeus.Config.from_plain(plain)


def there(server: B2Server) -> list[str]:
    """Return the names of the run's copies."""
    return sorted(name.removeprefix(RUN) for name in server.objects(BUCKET) if name.startswith(RUN))


def here(directory: Path) -> list[str]:
    """Return the names of the run's checkpoints."""
    return sorted(path.name for path in directory.glob("checkpoint_*.pth"))


def test_every_kept_checkpoint_arrives_whole(b2, tmp_path):
    """When close returns, the bucket holds what its own rules keep, equal to the last byte."""
    directory = tmp_path / "run"
    cfg = run_config(
        directory, bucket_of(b2, KEEP_LAST_N=2, KEEP_TOP_N=0), KEEP_LAST_N=3, KEEP_TOP_N=0, EPOCHS=4
    )
    train(cfg, SmallRun())
    assert there(b2) == ["checkpoint_epoch_3.pth", "checkpoint_epoch_4.pth"]
    for name in there(b2):
        assert b2.objects(BUCKET)[RUN + name] == (directory / name).read_bytes()
        assert len(b2.versions(BUCKET, RUN + name)) == 1


def test_a_blank_machine_goes_on_bit_for_bit(b2, tmp_path):
    """Killed in the third epoch, its directory lost: the same command ends as if nothing had happened."""
    whole = SmallRun()
    train(config(tmp_path / "whole", EPOCHS=4), whole)
    expected = whole.state()  # at once: the random streams are those of the process
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2), INTERVAL_STEPS=3, EPOCHS=4)
    train(cfg, SmallRun(), stop_after=23).close()
    shutil.rmtree(directory)
    resumed = SmallRun()
    ckpt = train(cfg, resumed)
    assert ckpt.progress.epoch == 4
    assert same(expected, resumed.state())


def test_choosing_costs_kilobytes(b2, tmp_path):
    """Three requests, and two for the candidate, before the chosen file itself is fetched."""
    from linnaeus.config import OutputBucketConfig
    from linnaeus.remote import open_remote
    from linnaeus.resuming import _bucket

    directory = tmp_path / "run"
    train(run_config(directory, bucket_of(b2, KEEP_LAST_N=0, KEEP_TOP_N=0), EPOCHS=3), SmallRun())
    b2.reset_counts()
    remote = open_remote(OutputBucketConfig(**bucket_of(b2)))
    with remote.session() as session:
        assert _bucket._newest(session, None, set(), []).name == "checkpoint_epoch_3.pth"
    assert len(b2.requests) == 5
    assert sum(record.bytes_sent for record in b2.requests if record.operation == "download") < 300_000


def test_a_damaged_copy_is_passed_over(b2, tmp_path):
    """Cut short at the bucket: the next newest is gone on from."""
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2, KEEP_LAST_N=0, KEEP_TOP_N=0), EPOCHS=3)
    train(cfg, SmallRun())
    newest = b2.objects(BUCKET)[f"{RUN}checkpoint_epoch_3.pth"]
    shutil.rmtree(directory)
    for damaged in (newest[:-100], newest[:5000] + b"x" + newest[5001:]):
        b2.put(BUCKET, f"{RUN}checkpoint_epoch_3.pth", damaged)
        ckpt = linnaeus.CheckpointManager(cfg, **SmallRun().parts())
        assert ckpt.resume().epoch == 2
        ckpt.close()
        shutil.rmtree(directory)


def test_a_bucket_that_can_not_be_asked_is_no_fresh_start(b2, tmp_path):
    """A blank machine without its bucket does not begin anew unnoticed; one with a checkpoint goes on."""
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2, RETRIES=1), EPOCHS=2)
    b2.fault("authorize", 503)
    with pytest.raises(RemoteError):
        linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume()
    train(config(directory, EPOCHS=2), SmallRun())
    assert linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume().epoch == 2


def test_what_is_another_runs_is_never_touched(b2, tmp_path):
    """Neither replaced nor removed, by whatever rules; that a name is taken is told at the end, at once."""
    first = tmp_path / "first"
    train(run_config(first, bucket_of(b2, KEEP_LAST_N=0, KEEP_TOP_N=0), EPOCHS=2), SmallRun())
    b2.put(BUCKET, f"{RUN}checkpoint_epoch_7.pth", b"not ours")
    b2.put(BUCKET, f"{RUN}notes.txt", b"not ours")
    before = b2.objects(BUCKET)
    cfg = run_config(
        tmp_path / "second",
        bucket_of(b2, KEEP_LAST_N=1, KEEP_TOP_N=0, CLOSE_TIMEOUT_SECONDS=600.0),  # a test has 180
        EPOCHS=3,
        AUTO_RESUME=False,
        KEEP_LAST_N=0,
        KEEP_TOP_N=0,
    )
    run = SmallRun()
    torch.nn.init.zeros_(next(run.model.parameters()))
    ckpt = linnaeus.CheckpointManager(cfg, **run.parts())
    ckpt.progress = ckpt.progress.after_step()
    ckpt.end_epoch({"loss": 1.0})
    with pytest.raises(RemoteError, match="another run's file has that name") as caught:
        ckpt.close()
    assert "linnaeus push" in str(caught.value)
    after = b2.objects(BUCKET)
    assert {name: after.get(name) for name in before} == before


def test_a_bucket_that_fails_never_blocks_training(b2, tmp_path):
    """The run ends in its own time, and says what is missing and how to send it; the next start sends it."""
    directory = tmp_path / "run"
    b2.fault("*", 503)
    cfg = run_config(
        directory, bucket_of(b2, RETRIES=1, CLOSE_TIMEOUT_SECONDS=1.0), EPOCHS=3, AUTO_RESUME=False
    )
    with pytest.raises(RemoteError) as caught:
        train(cfg, SmallRun())
    assert "linnaeus push" in str(caught.value)
    assert len(here(directory)) == 3
    b2.clear_faults()
    with linnaeus.CheckpointManager(
        run_config(directory, bucket_of(b2), EPOCHS=3), **SmallRun().parts()
    ) as ckpt:
        ckpt.resume()
    assert there(b2) == here(directory)


def test_a_replaced_copy_leaves_no_hidden_version(b2, tmp_path):
    """Saved again under the same name, the older content goes for good; that of others stays."""
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2), EPOCHS=1, KEEP_LAST_N=0, KEEP_TOP_N=0)
    ckpt = train(cfg, SmallRun())
    name = RUN + here(directory)[0]
    again = linnaeus.CheckpointManager(cfg, **SmallRun().parts())
    again.resume()
    again.progress = ckpt.progress
    again._metrics = {"loss": 0.5, "again": 1.0}
    again.save()
    again.close()
    assert b2.objects(BUCKET)[name] == (directory / here(directory)[0]).read_bytes()
    assert len(b2.versions(BUCKET, name)) == 1


def test_nothing_is_pruned_here_before_it_has_arrived(b2, tmp_path):
    """However few the local rules keep: what the bucket is to have stays until it is there, then it goes."""
    directory = tmp_path / "run"
    b2.fault("upload", 503)
    bucket = bucket_of(b2, RETRIES=1, KEEP_LAST_N=3, KEEP_TOP_N=0, CLOSE_TIMEOUT_SECONDS=2.0)
    rules = {"KEEP_LAST_N": 1, "KEEP_TOP_N": 0}
    with pytest.raises(RemoteError, match="not there after"):
        train(run_config(directory, bucket, EPOCHS=4, **rules), SmallRun())
    assert here(directory) == [f"checkpoint_epoch_{n}.pth" for n in (2, 3, 4)]
    b2.clear_faults()
    train(run_config(directory, bucket | {"CLOSE_TIMEOUT_SECONDS": 100.0}, EPOCHS=5, **rules), SmallRun())
    assert there(b2) == [f"checkpoint_epoch_{n}.pth" for n in (3, 4, 5)]
    assert here(directory) == ["checkpoint_epoch_4.pth", "checkpoint_epoch_5.pth"]  # it was resumed from 4


def test_a_copy_that_can_not_be_read_is_told_apart(b2, tmp_path):
    """It is not called another run's, and not replaced: nobody knows whose it is; what to do is said."""
    directory = tmp_path / "run"
    name = f"{RUN}checkpoint_epoch_1.pth"
    b2.put(BUCKET, name, b"not a checkpoint")
    bucket = bucket_of(b2, CLOSE_TIMEOUT_SECONDS=60.0)
    cfg = run_config(directory, bucket, EPOCHS=2, AUTO_RESUME=False)
    with pytest.raises(RemoteError, match="can't be read, so nobody knows whose it is") as caught:
        train(cfg, SmallRun())
    assert "Remove it there" in str(caught.value)
    assert b2.objects(BUCKET)[name] == b"not a checkpoint"
    assert there(b2) == ["checkpoint_epoch_1.pth", "checkpoint_epoch_2.pth"]


def test_only_what_waiting_can_not_cure_is_not_waited_for(b2, tmp_path):
    """A bucket that fails is waited for also where another name is taken: all that can arrive does."""
    directory = tmp_path / "run"
    train(config(directory, EPOCHS=2), SmallRun())
    b2.put(BUCKET, f"{RUN}checkpoint_epoch_1.pth", b"not a checkpoint")
    b2.fault("upload", 503, times=6)
    bucket = OutputBucketConfig(**bucket_of(b2, RETRIES=1))
    run = list_checkpoints(directory)[0].run
    copies = Copies(directory, open_in_background(bucket), Retention(), lambda: run)
    mirror = Mirror(copies, bucket, close_seconds=600.0, retry_seconds=0.1)
    mirror.notice()
    with pytest.raises(RemoteError, match=r"not there: checkpoint_epoch_1\.pth") as caught:
        mirror.close()
    assert "nobody knows whose it is" in str(caught.value)
    assert there(b2) == here(directory)
    assert b2.count("upload") > 6


def test_a_bucket_that_is_not_there_is_no_fresh_start(b2, tmp_path):
    """A mistyped name is not taken for a run that was never copied; a folder without anything is."""
    cfg = run_config(tmp_path / "run", bucket_of(b2, NAME="nosuch"), EPOCHS=1)
    with pytest.raises(RemoteNotFoundError):
        linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume()
    cfg = run_config(tmp_path / "run", bucket_of(b2), EPOCHS=1)
    assert linnaeus.CheckpointManager(cfg, **SmallRun().parts()).resume().epoch == 0


def sha1_of(path: Path) -> str:
    """Return a file's SHA-1."""
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_uploads_to_a_failing_bucket_all_arrive(b2, tmp_path):
    """A tenth of all requests refused, cut, stalled, or unanswered: each arrives whole, stored once."""
    directory = tmp_path / "run"
    operations = ("upload", "list", "get_upload_url", "head", "list_buckets", "list_versions")
    b2.fault_at_random(0.1, (503, "cut", "stall", "lost"), operations, seed=11)
    cfg = run_config(
        directory,
        bucket_of(b2, RETRIES=5, KEEP_LAST_N=0, KEEP_TOP_N=0, IDLE_TIMEOUT_SECONDS=2.0),
        EPOCHS=2,
        INTERVAL_STEPS=1,
        KEEP_LAST_N=0,
        KEEP_TOP_N=0,
    )
    train(cfg, SmallRun())
    assert there(b2) == here(directory)
    assert len(there(b2)) == 12
    for name in there(b2):
        assert len(b2.versions(BUCKET, RUN + name)) == 1
        assert b2.objects(BUCKET)[RUN + name] == (directory / name).read_bytes()
    whole = {(RUN + name, sha1_of(directory / name)) for name in there(b2)}
    assert {entry for entry in b2.stored(BUCKET) if entry[0].startswith(RUN)} == whole


def test_an_upload_whose_answer_is_lost_is_stored_once(b2, tmp_path):
    """It is sent again, since nobody knows that it had arrived; the older one of the two goes."""
    directory = tmp_path / "run"
    b2.fault("upload", "lost", times=1)
    train(run_config(directory, bucket_of(b2), EPOCHS=1), SmallRun())
    (name,) = there(b2)
    assert len([entry for entry in b2.stored(BUCKET) if entry[0] == RUN + name]) == 2
    assert len(b2.versions(BUCKET, RUN + name)) == 1


def test_copying_begins_when_it_is_known_which_run_it_is(b2, tmp_path, monkeypatch):
    """Not before: else a resumed run would take its own copies for somebody else's."""
    directory = tmp_path / "run"
    cfg = run_config(directory, bucket_of(b2), EPOCHS=1)
    train(cfg, SmallRun())
    known = []
    monkeypatch.setattr(
        "linnaeus.saving._mirror.Mirror.notice", lambda mirror: known.append(mirror._copies._run())
    )
    ckpt = linnaeus.CheckpointManager(cfg, **SmallRun().parts())
    ckpt.resume()
    ckpt.close()
    assert known == [list_checkpoints(directory)[0].run]


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are set on Linux")
def test_copying_gives_way_to_all_other_work(b2, tmp_path):
    """Every process that copies has the lowest priority at the processor, and at the disk none of its own."""
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(300_000))
    remote = open_in_background(OutputBucketConfig(**bucket_of(b2)))
    b2.fault("upload", "stall")
    seen = []

    def look(_):
        for child in children(os.getpid()):
            seen.append((child.cmdline()[1], child.nice(), child.ionice().ioclass))
        raise KeyboardInterrupt

    with remote.session(), pytest.raises(KeyboardInterrupt):
        remote.send(path, "x.pth", progress=look)
    assert sorted(seen) == [("rc", 19, psutil.IOPRIO_CLASS_IDLE), ("rcd", 19, psutil.IOPRIO_CLASS_IDLE)]


def test_the_cap_of_the_rate_is_kept(b2, tmp_path):
    """What is sent takes as long as the cap says, less what may go in the first moment."""
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(8_000_000))
    remote = open_in_background(OutputBucketConfig(**bucket_of(b2, MAX_MEGABYTES_PER_SECOND=2.0)))
    started = time.monotonic()
    remote.send(path, "x.pth")
    assert time.monotonic() - started > 1.0  # 4 s, but for a burst; without a cap some milliseconds


def test_hidden_versions_of_other_runs_stay(b2, tmp_path):
    """Behind the run's own copy: its own older ones go, whoever wrote the others."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(config(first, EPOCHS=1), SmallRun())
    train(config(second, EPOCHS=1), SmallRun())
    name = "checkpoint_epoch_1.pth"
    others, own = (first / name).read_bytes(), (second / name).read_bytes()
    for data in (b"nobody knows whose", others, own, others, own):
        b2.put(BUCKET, RUN + name, data)
    run = list_checkpoints(second)[0].run
    remote = open_in_background(OutputBucketConfig(**bucket_of(b2)))
    copies = Copies(second, remote, Retention(), lambda: run)
    with remote.session() as session:
        assert copies.tidy(session) == []
    versions = b2.versions(BUCKET, RUN + name)
    left = [b2._store.version(version["fileId"]).data for version in versions]
    assert left == [b"nobody knows whose", others, others, own]
