"""Wherever a checkpoint is named, a directory of shards may be: every command and every doorway."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml

import linnaeus as library
from linnaeus import pth
from linnaeus.cli import main
from linnaeus.files import file_digest
from linnaeus.models import build_model
from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.directories import content, names
from support.program import Ended
from support.published import convnext, ropevit
from support.small_run import SmallRun, config, train
from support.trees import same

Run = Callable[..., Ended]

MODEL = {"NAME": "mFormer_nano", "HEADS": {"species": 4}}
CONV, VIT = "conv.sharded", "vit.sharded"


@pytest.fixture
def here(tmp_path: Path, b2: B2Server) -> Path:
    """A directory with a config whose bucket has two sources of a model as directories of shards."""
    made = {
        CONV: {"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1)},
        VIT: {"model": ropevit(96, 3, 3, mlp_ratio=2, num_classes=5)},
    }
    for name, state in made.items():
        pth.save_sharded(state, tmp_path / name)
        for file, data in content(tmp_path / name).items():
            b2.put(BUCKET, f"{PREFIX}{name}/{file}", data)
    bucket = {key: value for key, value in dict(b2_bucket(b2)).items() if not key.startswith("APP_KEY")}
    place = {"CACHE_DIR": str(tmp_path / "cache"), "BUCKET": bucket}
    plain = {
        "ENV": {"INPUT": place},
        "MODEL": MODEL | {"PRETRAINED_CONVNEXT": CONV, "PRETRAINED_ROPEVIT": VIT},
    }
    (tmp_path / "linnaeus.yaml").write_text(yaml.safe_dump(plain))
    return tmp_path


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the program in this process, which spares importing torch anew."""
    monkeypatch.chdir(here)

    def run(*arguments: str) -> Ended:
        code = main(arguments)
        shown = capsys.readouterr()
        return Ended(code, shown.out, shown.err)

    return run


def served(server: B2Server, name: str) -> dict[str, int]:
    """Return how much of each file of a directory was served."""
    found = [one for one in server.objects(BUCKET) if one.startswith(f"{PREFIX}{name}/")]
    return {one.rpartition("/")[2]: server.bytes_served(one) for one in found}


def only_its_description(server: B2Server, name: str) -> bool:
    """Tell whether nothing but the commit file of a directory was served."""
    return [file for file, num_bytes in served(server, name).items() if num_bytes] == [pth.COMMIT]


def test_it_is_resolved_by_name_and_by_path(run: Run, here: Path) -> None:
    """Fetched into the cache, found there, and by its absolute path, with or without a slash at its end."""
    for _ in range(2):
        assert run("resolve", CONV).out == f"{here / 'cache' / CONV}\n"
    told = json.loads(run("resolve", CONV, "--json").out)
    assert told["size_bytes"] == sum(map(len, content(here / CONV).values()))
    for path in (f"{here / CONV}", f"{here / CONV}/"):
        assert run("resolve", path).out == f"{here / CONV}\n"
    bucket = library.load_config(here / "linnaeus.yaml").ENV.INPUT.BUCKET
    shutil.rmtree(here / "cache")
    assert resolve_checkpoint_path(CONV, here / "cache", bucket) == str(here / "cache" / CONV)
    assert content(here / "cache" / CONV) == content(here / CONV)


def test_it_is_inspected_verified_and_loaded(run: Run, here: Path) -> None:
    """By its path and by its name; a damaged one has the exit code of damage."""
    for name in (str(here / CONV), CONV):
        found = json.loads(run("inspect", name, "--json").out)
        assert {tensor["name"] for tensor in found["tensors"]} == {
            f"model.{key}" for key in library.load(here / CONV)["model"]
        }
        assert run("verify", name).code == 0
    path = library.resolve(CONV, library.load_config(here / "linnaeus.yaml"))
    assert same(library.load(path), library.load(here / CONV))
    shard = max(path.iterdir(), key=lambda file: file.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    ended = run("verify", str(path))
    assert (ended.code, shard.name in ended.out) == (6, True)


def test_it_is_listed_in_the_bucket_and_in_the_cache(run: Run) -> None:
    """As one checkpoint with the size of all its files, and whether the cache has it."""
    run("resolve", VIT)
    there = {one["name"]: one for one in json.loads(run("ls", "--remote", "--json").out)["checkpoints"]}
    assert (there[CONV]["in_cache"], there[VIT]["in_cache"]) == ("no", "yes")
    (here,) = json.loads(run("ls", "--json").out)["checkpoints"]
    assert (here["name"], here["size_bytes"]) == (VIT, there[VIT]["size_bytes"])
    assert here["problem"] is None


def test_two_are_compared_and_converted(run: Run, here: Path) -> None:
    """With each other, with a file of the same content, and by name."""
    assert run("convert", CONV, "conv.pth").code == 0
    assert run("convert", "conv.pth", "again.sharded").code == 0
    assert run("convert", CONV, "conv.safetensors").code == 0
    for other in (CONV, "conv.pth", "again.sharded"):
        assert run("diff", "--exit-code", str(here / CONV), other).code == 0, other
    state = library.load(here / CONV)
    state["model"][next(iter(state["model"]))] += 1
    pth.save_sharded(state, here / "other.sharded")
    ended = run("diff", "--exit-code", CONV, "other.sharded")
    assert (ended.code, "1 tensor changed" in ended.out) == (1, True)


def test_it_is_uploaded(run: Run, here: Path, b2: B2Server) -> None:
    """Whole, once, and not over another one; what a bucket could not tell apart is refused with a way out."""
    shutil.copytree(here / CONV, here / "mine.sharded")
    for done in ("uploaded", "there already"):
        assert done in run("upload", "mine.sharded/").out
    assert {f"{PREFIX}mine.sharded/{file}" for file in names(here / CONV)} <= set(b2.objects(BUCKET))
    shutil.rmtree(here / "mine.sharded")
    shutil.copytree(here / VIT, here / "mine.sharded")
    assert run("upload", "mine.sharded").code != 0
    assert run("upload", "mine.sharded", "--force").code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no process group
        dcp.save({"w": torch.ones(3)}, checkpoint_id=here / "plain")
    ended = run("upload", "plain")
    assert (ended.code, "linnaeus convert" in ended.err) == (2, True)
    assert run("convert", "plain", "plain.sharded").code == run("upload", "plain.sharded").code == 0


def test_a_report_needs_its_description_alone(run: Run, b2: B2Server, here: Path) -> None:
    """Of what is in the bucket neither a report nor a rehearsal fetches a shard."""
    ended = run("load-report", VIT, "--json")
    assert json.loads(ended.out)["sources"], ended
    ended = run("stitch", "--dry-run", "stitched_convnext_ropevit", "--json")
    assert json.loads(ended.out)["coverage"] == 1.0, ended
    assert only_its_description(b2, CONV)
    assert only_its_description(b2, VIT)
    assert not (here / "cache" / VIT).exists()
    ended = run("load-report", "nosuch.sharded")
    assert (ended.code, "not in the cache" in ended.err) == (3, True)


def test_two_are_stitched(run: Run, here: Path) -> None:
    """From the bucket into one file, which tells the digests of both commit files."""
    ended = run("stitch", "stitched_convnext_ropevit", "--output", "out.pth")
    assert ended.code == 0, ended
    told = library.describe(here / "out.pth").about["lineage"]["stitched"]["sources"]
    assert [one["sha256"] for one in told] == [
        file_digest(here / name / pth.COMMIT, "sha256") for name in (CONV, VIT)
    ]


def test_pretrained_weights_come_from_it(here: Path) -> None:
    """From the bucket and from the cache, by name; the same weights as from a file of the same content."""
    (here / "cache").mkdir()
    pth.save_sharded({"model": _weights()}, here / "cache" / "whole.sharded")
    loaded = []
    for setting in ([], ["MODEL.PRETRAINED=whole.sharded"]):
        cfg = library.load_config(here / "linnaeus.yaml", setting + (_ALONE if setting else []))
        model = build_model(cfg)
        assert library.load_pretrained(cfg, model).coverage == 1.0
        loaded.append(model.state_dict())
    assert all(torch.equal(loaded[1][name], tensor) for name, tensor in _weights().items())


_ALONE = ["MODEL.PRETRAINED_CONVNEXT=null", "MODEL.PRETRAINED_ROPEVIT=null"]


def _weights() -> dict[str, torch.Tensor]:
    cfg = library.Config.from_plain({"MODEL": MODEL})
    torch.manual_seed(7)
    return dict(build_model(cfg).state_dict())


def test_a_run_goes_on_from_one_by_name(here: Path, b2: B2Server) -> None:
    """TRAIN.RESUME fetches it from the bucket, and the run continues from its epoch."""
    train(config(here / "first", FORMAT="sharded", EPOCHS=2), SmallRun())
    for file, data in content(here / "first" / "checkpoint_epoch_2.sharded").items():
        b2.put(BUCKET, f"{PREFIX}old.sharded/{file}", data)
    plain = config(here / "second", EPOCHS=3).to_plain()
    plain["ENV"]["INPUT"] = yaml.safe_load((here / "linnaeus.yaml").read_text())["ENV"]["INPUT"]
    plain["TRAIN"]["RESUME"] = "old.sharded"
    assert train(library.Config.from_plain(plain), SmallRun()).progress.epoch == 3
    assert (here / "cache" / "old.sharded").is_dir()


@pytest.mark.parametrize("url", ["https://example.org/x.sharded", "hf://org/repo/x.sharded@main"])
def test_other_homes_have_files_only(run: Run, url: str) -> None:
    """A directory can't be had from there: an error that says so, before anybody is asked."""
    ended = run("resolve", url)
    assert (ended.code, "directory of shards" in ended.err, "convert" in ended.err) == (2, True, True)


def test_a_directory_that_is_none_is_told_as_such(run: Run, here: Path) -> None:
    """By its path and under a name in the cache."""
    for place in (here / "notes", here / "cache" / "notes"):
        place.mkdir(parents=True)
    for name in (str(here / "notes"), "notes"):
        ended = run("resolve", name)
        assert (ended.code, "directory, and no checkpoint" in ended.err) == (6, True), ended
