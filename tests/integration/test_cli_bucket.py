"""push, pull, ls --remote --run, prune --remote, lock and cache: as people run them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from support.program import linnaeus
from support.small_run import SmallRun, config, train


@pytest.fixture
def run(tmp_path):
    """A run of three epochs in a directory, and the arguments that name its bucket, a directory too."""
    train(config(tmp_path / "run", EPOCHS=3, KEEP_LAST_N=0, KEEP_TOP_N=0), SmallRun())
    (tmp_path / "bucket").mkdir()
    settings = {"REMOTE": ":local:", "NAME": tmp_path / "bucket", "PATH_PREFIX": "r/", "KEEP_LAST_N": 2}
    settings |= {"KEEP_TOP_N": 0}
    return [part for key, value in settings.items() for part in ("--set", f"ENV.OUTPUT.BUCKET.{key}={value}")]


def plain(ended):
    """Return the JSON that a command printed."""
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_push_list_prune_and_pull(run, tmp_path):
    """What is missing is sent, listed with where it is, pruned by the bucket's rules, and brought back."""
    directory = tmp_path / "run"
    sent = plain(linnaeus("push", directory, *run, "--json", cwd=tmp_path))["sent"]
    assert [c["name"] for c in sent] == ["checkpoint_epoch_3.pth", "checkpoint_epoch_2.pth"]
    assert plain(linnaeus("push", directory, *run, "--json", cwd=tmp_path))["sent"] == []
    listed = plain(linnaeus("ls", "--remote", "--run", directory, *run, "--json", cwd=tmp_path))[
        "checkpoints"
    ]
    assert {c["name"]: c["state"] for c in listed} == {
        "checkpoint_epoch_3.pth": "arrived",
        "checkpoint_epoch_2.pth": "arrived",
        "checkpoint_epoch_1.pth": "only here",
    }
    assert all(c["this_run"] for c in listed)
    less = [*run, "--set", "ENV.OUTPUT.BUCKET.KEEP_LAST_N=1"]
    for dry in (["--dry-run"], []):
        plan = plain(linnaeus("prune", "--remote", *dry, directory, *less, "--json", cwd=tmp_path))
        assert {c["name"]: c["keep"] for c in plan["checkpoints"]} == {
            "checkpoint_epoch_3.pth": True,
            "checkpoint_epoch_2.pth": False,
        }
    left = [path.name for path in (tmp_path / "bucket" / "r").iterdir()]
    assert left == ["checkpoint_epoch_3.pth"]
    shutil.rmtree(directory)
    pulled = plain(linnaeus("pull", directory, *run, "--json", cwd=tmp_path))
    assert Path(pulled["path"]) == directory / "checkpoint_epoch_3.pth"
    assert Path(pulled["path"]).read_bytes() == (tmp_path / "bucket/r/checkpoint_epoch_3.pth").read_bytes()


def test_a_blank_machine_lists_and_prunes(run, tmp_path):
    """With nothing of the run here: the only run there is meant, or the one that is named by its id."""
    every = [*run, "--set", "ENV.OUTPUT.BUCKET.KEEP_LAST_N=0", "--set", "ENV.OUTPUT.BUCKET.KEEP_TOP_N=0"]
    assert linnaeus("push", "run", *every, cwd=tmp_path).code == 0
    shutil.rmtree(tmp_path / "run")
    listed = plain(linnaeus("ls", "--remote", "--run", *run, "--json", cwd=tmp_path))["checkpoints"]
    assert [(c["state"], c["this_run"]) for c in listed] == [("only there", True)] * 3
    gone = plain(linnaeus("prune", "--remote", "--dry-run", *run, "--json", cwd=tmp_path))["checkpoints"]
    assert [c["name"] for c in gone if not c["keep"]] == ["checkpoint_epoch_1.pth"]
    train(config(tmp_path / "other", EPOCHS=4, KEEP_LAST_N=1, KEEP_TOP_N=0), SmallRun())
    shutil.copy(tmp_path / "other/checkpoint_epoch_4.pth", tmp_path / "bucket/r")
    listed = plain(linnaeus("ls", "--remote", "--run", *run, "--json", cwd=tmp_path))["checkpoints"]
    assert [c["this_run"] for c in listed] == [False] * 4
    ended = linnaeus("prune", "--remote", *run, cwd=tmp_path)
    assert (ended.code, listed[0]["run"] in ended.err, "--run-id" in ended.err) == (3, True, True)
    named = ["--run-id", listed[-1]["run"][:8]]
    assert linnaeus("prune", "--remote", "--run-id", "nosuch", *run, cwd=tmp_path).code == 3
    assert linnaeus("prune", *named, *run, cwd=tmp_path).code == 2
    left = plain(linnaeus("prune", "--remote", *named, *run, "--json", cwd=tmp_path))["checkpoints"]
    assert [c["name"] for c in left if c["keep"]] == ["checkpoint_epoch_3.pth", "checkpoint_epoch_2.pth"]
    assert sorted(p.name[-7:-4] for p in (tmp_path / "bucket/r").iterdir()) == ["h_2", "h_3", "h_4"]


def test_what_has_not_arrived_is_not_pruned_here(run, tmp_path):
    """With the bucket enabled, `prune` keeps what the bucket should have until it has it."""
    less = [*run, "--set", "SCHEDULE.CHECKPOINT.KEEP_LAST_N=1", "--set", "SCHEDULE.CHECKPOINT.KEEP_TOP_N=0"]
    arguments = ["prune", "run", *less, "--set", "ENV.OUTPUT.BUCKET.ENABLED=true"]
    verdicts = plain(linnaeus(*arguments, "--json", cwd=tmp_path))["checkpoints"]
    assert {v["name"]: v["reasons"][-1] if v["keep"] else None for v in verdicts} == {
        "checkpoint_epoch_3.pth": "among the last 1",
        "checkpoint_epoch_2.pth": "not at the bucket yet",
        "checkpoint_epoch_1.pth": None,
    }
    assert linnaeus("push", "run", *less, cwd=tmp_path).code == 0
    assert linnaeus(*arguments, cwd=tmp_path).code == 0
    assert [p.name for p in (tmp_path / "run").glob("checkpoint_*")] == ["checkpoint_epoch_3.pth"]


def test_a_mistyped_bucket_is_not_an_empty_one(run, tmp_path):
    """Whoever looks into it is told that there is none."""
    wrong = [*run, "--set", f"ENV.OUTPUT.BUCKET.NAME={tmp_path / 'buket'}"]
    for command in (["ls", "--remote", "--run"], ["prune", "--remote"], ["pull", "blank"], ["push", "run"]):
        assert linnaeus(*command, *wrong, cwd=tmp_path).code == 3, command


def test_they_speak_to_people_too(run, tmp_path):
    """Without --json, a line says what was done."""
    assert "2 files" in linnaeus("push", "run", *run, cwd=tmp_path).out
    assert "nothing was missing" in linnaeus("push", "run", *run, cwd=tmp_path).out
    assert "only here" in linnaeus("ls", "--remote", "--run", "run", *run, cwd=tmp_path).out
    assert "0 files removed of 2" in linnaeus("prune", "--remote", "run", *run, cwd=tmp_path).out
    assert "newest valid" in linnaeus("pull", "run", *run, cwd=tmp_path).out


def test_nothing_to_push_or_pull_is_not_found(run, tmp_path):
    """Neither is a success."""
    assert linnaeus("push", "nosuch", *run, cwd=tmp_path).code == 3
    assert linnaeus("pull", "other", *run, cwd=tmp_path).code == 3


def test_lock_writes_beside_the_config(tmp_path, checkpoint_file):
    """And what it says is what resolve is held to."""
    (tmp_path / "exp.yaml").write_text(f"MODEL: {{PRETRAINED: {checkpoint_file}}}\n")
    ended = linnaeus("lock", "exp.yaml", cwd=tmp_path)
    assert (ended.code, "sha256:" in ended.out) == (0, True)
    assert linnaeus("resolve", checkpoint_file, "--config", "exp.yaml", cwd=tmp_path).code == 0
    data = bytearray(checkpoint_file.read_bytes())
    data[-1] ^= 1
    checkpoint_file.write_bytes(bytes(data))
    ended = linnaeus("resolve", checkpoint_file, "--config", "exp.yaml", cwd=tmp_path)
    assert ended.code == 6
    assert "is expected" in ended.err


def test_the_sources_of_a_recipe_are_locked_too(tmp_path, checkpoint_bytes, other_checkpoint_bytes):
    """Also those that only the recipe names; a later load is held to them."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "body.pth").write_bytes(checkpoint_bytes)
    (cache / "head.pth").write_bytes(other_checkpoint_bytes)
    (tmp_path / "recipe.yaml").write_text(
        "sources:\n  body: {checkpoint: body.pth, claims: [a.]}\n  head: {option: TEACHER, claims: [b.]}\n"
    )
    (tmp_path / "exp.yaml").write_text(
        f"ENV: {{INPUT: {{CACHE_DIR: {cache}}}}}\n"
        f"MODEL: {{PRETRAINED_RECIPE: {tmp_path / 'recipe.yaml'}, TEACHER: head.pth,"
        " NAME: mFormer_nano, HEADS: {a: 2}}\n"
    )
    locked = plain(linnaeus("lock", "exp.yaml", "--json", cwd=tmp_path))["checkpoints"]
    assert sorted(locked) == ["body.pth", "head.pth"]
    (cache / "body.pth").write_bytes(other_checkpoint_bytes)
    ended = linnaeus("stitch", "recipe.yaml", "--dry-run", "--config", "exp.yaml", cwd=tmp_path)
    assert (ended.code, "is expected" in ended.err) == (6, True), ended


@pytest.fixture
def cache_set(tmp_path, checkpoint_bytes, other_checkpoint_bytes):
    """A cache with two equal files and another, of different ages, and the option that names it."""
    cache = tmp_path / "cache"
    (cache / ".linnaeus").mkdir(parents=True)
    for age, (name, data) in enumerate(
        {"c.pth": other_checkpoint_bytes, "b.pth": checkpoint_bytes, "a.pth": checkpoint_bytes}.items()
    ):
        (cache / name).write_bytes(data)
        os.utime(cache / name, (1_000_000 - age * 100_000,) * 2)
    return ["--set", f"ENV.INPUT.CACHE_DIR={cache}"]


def test_equal_files_come_to_share_their_disk(cache_set, tmp_path, checkpoint_bytes):
    """After a check, which also records the digests."""
    ended = linnaeus("cache", "verify", *cache_set, cwd=tmp_path)
    assert (ended.code, "3 of 3 files whole" in ended.out) == (0, True), ended
    assert (tmp_path / "cache/a.pth").samefile(tmp_path / "cache/b.pth")
    assert (tmp_path / "cache/a.pth").read_bytes() == checkpoint_bytes
    files = plain(linnaeus("cache", "ls", "--json", *cache_set, cwd=tmp_path))["files"]
    assert len({f["sha256"] for f in files}) == 2
    assert all(f["sha256"] for f in files)


def test_a_damaged_file_is_told(cache_set, tmp_path):
    """With the exit code of damage."""
    data = bytearray((tmp_path / "cache/c.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "cache/c.pth").write_bytes(bytes(data))
    ended = linnaeus("cache", "verify", *cache_set, cwd=tmp_path)
    assert ended.code == 6
    assert "c.pth" in ended.err


def test_the_least_recently_used_goes_first(cache_set, tmp_path):
    """Until the rest fits; a dry run only says so; what a process has open stays."""
    arguments = ["cache", "prune", "--max-size", "0.4MB", "--json", *cache_set]
    plan = plain(linnaeus(*arguments, "--dry-run", cwd=tmp_path))["files"]
    assert [f["name"] for f in plan if f["removed"]] == ["a.pth", "b.pth"]
    assert len(list((tmp_path / "cache").glob("*.pth"))) == 3
    with (tmp_path / "cache/a.pth").open("rb"):
        done = plain(linnaeus(*arguments, cwd=tmp_path))["files"]
    assert {f["name"]: f["reason"] for f in done if not f["removed"]} == {
        "a.pth": "in use by a process",
        "c.pth": "fits",
    }
    assert sorted(p.name for p in (tmp_path / "cache").glob("*.pth")) == ["a.pth", "c.pth"]


def test_what_is_pinned_stays(cache_set, tmp_path):
    """However old it is."""
    (tmp_path / "exp.yaml").write_text("MODEL: {PRETRAINED: a.pth}\n")
    assert linnaeus("lock", "exp.yaml", *cache_set, cwd=tmp_path).code == 0
    arguments = ["cache", "prune", "--older-than", "30d", "--config", "exp.yaml", *cache_set]
    assert linnaeus(*arguments, cwd=tmp_path).code == 0
    assert sorted(p.name for p in (tmp_path / "cache").glob("*.pth"))[0] == "a.pth"


@pytest.mark.parametrize("wrong", [[], ["--max-size", "much"], ["--older-than", "30"]])
def test_a_rule_is_needed(cache_set, tmp_path, wrong):
    """And one that can be understood."""
    assert linnaeus("cache", "prune", *wrong, *cache_set, cwd=tmp_path).code == 2
