"""Stitching and reports of loads, as people use them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import linnaeus as library
from linnaeus.cli import main
from support.buckets import BUCKET, PREFIX, b2_bucket
from support.program import Ended, linnaeus
from support.published import convnext, ropevit

Run = Callable[..., Ended]

MODEL = {"NAME": "mFormer_nano", "HEADS": {"species": 4}}
BOTH = {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}


def conv() -> dict[str, dict[str, torch.Tensor]]:
    """Return a ConvNeXt as published, for mFormer_nano."""
    return {"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1)}


def vit() -> dict[str, dict[str, torch.Tensor]]:
    """Return a RoPE-ViT as published, for mFormer_nano."""
    return {"model": ropevit(96, 3, 3, mlp_ratio=2, num_classes=5)}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory with a cache of two sources and a config that names them."""
    (tmp_path / "cache").mkdir()
    torch.save(conv(), tmp_path / "cache" / "conv.pth")
    torch.save(vit(), tmp_path / "cache" / "vit.pth")
    write(tmp_path, {"MODEL": MODEL | BOTH})
    return tmp_path


def write(place: Path, sections: dict[str, object]) -> None:
    """Write linnaeus.yaml for a cache in the same place."""
    plain = {"ENV": {"INPUT": {"CACHE_DIR": str(place / "cache")}}, **sections}
    (place / "linnaeus.yaml").write_text(yaml.safe_dump(plain))


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the program in this process, which spares importing torch anew."""
    monkeypatch.chdir(here)

    def run(*arguments: str) -> Ended:
        code = main(arguments)
        shown = capsys.readouterr()
        return Ended(code, shown.out, shown.err)

    return run


def report(run: Run, *arguments: str) -> dict[str, object]:
    """Return the JSON of a command."""
    ended = run(*arguments, "--json")
    return {"code": ended.code, **json.loads(ended.out)}


def test_a_dry_run_tells_what_each_source_gives_and_what_nobody_claims(here: Path) -> None:
    """The tables name sources, modules with counts, what is left, and what nobody claims."""
    ended = linnaeus("stitch", "--dry-run", "stitched_convnext_ropevit", cwd=here)
    assert ended.code == 0
    for expected in (
        "100.0% of what conv.pth and vit.pth should give mFormer arrived",
        "claimed by nobody: heads.species (388 parameters)",
        "left of convnext: ",
        "left of ropevit: freqs_t_x, freqs_t_y: the places of the tokens are computed",
    ):
        assert expected in ended.out
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["norm", "2", "192", "ropevit"] in lines
    assert not (here / "runs").exists()


def test_a_dry_run_does_not_load_torchs_compiler(here: Path) -> None:
    """Arithmetic on the meta device would, which takes longer than all of the rest."""
    code = (
        "import sys; from linnaeus.cli import main\n"
        "assert main(['stitch', '--dry-run', 'stitched_convnext_ropevit']) == 0\n"
        "assert main(['load-report']) == 0\n"
        "assert not {'torch._dynamo', 'torch.distributed.tensor'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_as_json_has_every_count(here: Path, run: Run) -> None:
    """Counts of parameters and tensors, and by source, add up."""
    found = report(run, "stitch", "--dry-run", "stitched_convnext_ropevit")
    counts = found["counts"]
    assert counts["loaded"] + counts["adapted"] + counts["fresh"] == counts["parameters"]
    assert [source["coverage"] for source in found["sources"]] == [1.0, 1.0]
    assert sum(found["tensors"][status] for status in ("loaded", "adapted", "fresh")) == len(
        found["arrivals"]
    )


def test_a_recipe_file_brings_its_model_and_is_refused_where_it_claims_twice(here: Path, run: Run) -> None:
    """Each double claim is an error line, and the exit code says so; nothing is written."""
    source = {"checkpoint": "vit.pth", "rules": "ropevit", "claims": ["blocks.", "cls_token", "norm."]}
    recipe = {"model": MODEL, "sources": {"one": source, "two": dict(source)}}
    (here / "twice.yaml").write_text(yaml.safe_dump(recipe))
    ended = run("stitch", "--dry-run", "twice.yaml")
    assert ended.code == 1
    assert "norm.weight is claimed twice: by norm.weight of one and by norm.weight of two" in ended.err
    ended = run("stitch", "twice.yaml", "--output", "out.pth")
    assert (ended.code, (here / "out.pth").exists()) == (1, False)
    assert "can't be stitched" in ended.err


def test_widths_that_do_not_meet_are_named_before_anything_is_read(here: Path, run: Run) -> None:
    """A RoPE-ViT of another width is refused by a dry run, with both widths."""
    torch.save({"model": ropevit(384, 3, 6)}, here / "cache" / "vit.pth")
    ended = run("stitch", "--dry-run", "stitched_convnext_ropevit")
    assert ended.code == 1
    assert "the sources do not meet: convnext is 96 wide" in ended.err
    assert "ropevit is 384 wide" in ended.err


def test_what_is_written_holds_what_arrived_and_says_where_from(here: Path, run: Run) -> None:
    """The file has the backbone alone, its lineage has paths and digests, and it is a source itself."""
    ended = run("stitch", "stitched_convnext_ropevit", "--output", "out.pth")
    assert ended.code == 0
    state = torch.load(here / "out.pth", weights_only=True)["model"]
    assert not any(name.startswith("heads.") for name in state)
    assert torch.equal(state["norm.weight"], vit()["model"]["norm.weight"])
    lineage = library.describe(here / "out.pth").about["lineage"]["stitched"]
    digests = {source["name"]: source["sha256"] for source in lineage["sources"]}
    assert digests["convnext"] == hashlib.sha256((here / "cache" / "conv.pth").read_bytes()).hexdigest()
    assert lineage["coverage"] == 1.0
    assert run("verify", "out.pth").code == 0
    assert "conv.pth and vit.pth (100.0 % arrived)" in run("inspect", "out.pth").out
    write(here, {"MODEL": MODEL | {"PRETRAINED": str(here / "out.pth")}})
    assert report(run, "load-report")["coverage"] == 1.0


def test_an_existing_file_is_replaced_only_when_asked_to(here: Path, run: Run) -> None:
    """Without --force nothing is written over."""
    (here / "out.pth").write_text("mine")
    arguments = ("stitch", "stitched_convnext_ropevit", "--output", "out.pth")
    assert run(*arguments).code == 2
    assert (here / "out.pth").read_text() == "mine"
    assert run(*arguments, "--force").code == 0


@pytest.mark.parametrize("arguments", [[], ["--dry-run", "--output", "x.pth"]])
def test_either_a_dry_run_or_an_output_is_needed(here: Path, run: Run, arguments: list[str]) -> None:
    """Both or neither is a mistake in usage."""
    assert run("stitch", "stitched_convnext_ropevit", *arguments).code == 2


def test_a_report_of_one_file_needs_no_training(here: Path, run: Run) -> None:
    """A file and a config are enough; too little is told by the exit code."""
    write(here, {})
    (here / "exp.yaml").write_text((here / "linnaeus.yaml").read_text() + yaml.safe_dump({"MODEL": MODEL}))
    ended = run("load-report", "vit.pth", "--model", "exp.yaml")
    assert ended.code == 1
    assert "too little would arrive: at least 90.0%" in ended.err
    cfg = library.Config.from_plain({"MODEL": MODEL})
    from linnaeus.models import build_model

    library.save({"model": build_model(cfg).state_dict(), "epoch": 3}, here / "run.pth")
    found = report(run, "load-report", "run.pth", "--model", "exp.yaml")
    assert (found["code"], found["coverage"], found["counts"]["fresh"]) == (0, 1.0, 0)


def test_a_report_without_any_weights_says_so(here: Path, run: Run) -> None:
    """Where nothing is configured, nothing would arrive, and that is no failure."""
    write(here, {"MODEL": MODEL})
    ended = run("load-report")
    assert (ended.code, "none are configured" in ended.out) == (0, True)


def test_a_misspelt_name_gets_its_hint(here: Path, run: Run) -> None:
    """Names that nearly match are told in the report."""
    state = {name.replace("norm2", "norm_2"): tensor for name, tensor in vit()["model"].items()}
    torch.save({"model": state}, here / "cache" / "vit.pth")
    ended = run("load-report")
    assert "ropevit has blocks.0.norm_2.weight: meant blocks.0.norm2.weight?" in ended.out


def test_a_dry_run_looks_into_the_bucket_before_any_download(
    b2, cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of files that are still in the bucket only some kilobytes are read, and the cache stays empty."""
    large = conv() | {"optimizer": {"m": torch.zeros(2_000_000)}}
    for name, content in (("conv.pth", large), ("vit.pth", vit())):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        b2.put(BUCKET, f"{PREFIX}{name}", buffer.getvalue())
    bucket = {key: value for key, value in dict(b2_bucket(b2)).items() if not key.startswith("APP_KEY")}
    plain = {"MODEL": MODEL | BOTH, "ENV": {"INPUT": {"CACHE_DIR": str(cache), "BUCKET": bucket}}}
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(plain))
    code = main(
        ["stitch", "--dry-run", "--json", "stitched_convnext_ropevit", "--config", str(tmp_path / "exp.yaml")]
    )
    found = json.loads(capsys.readouterr().out)
    assert (code, found["coverage"]) == (0, 1.0)
    assert "in bucket" in found["sources"][0]["path"]
    assert b2.bytes_served(f"{PREFIX}conv.pth") < 600 << 10
    assert not cache.exists()


def in_bucket(b2, cache: Path, **files: bytes) -> library.Config:
    """Return a config with a bucket that holds files, by name without their ending."""
    for name, data in files.items():
        b2.put(BUCKET, f"{PREFIX}{name}", data)
    bucket = dict(b2_bucket(b2))
    plain = {"MODEL": MODEL | BOTH, "ENV": {"INPUT": {"CACHE_DIR": str(cache), "BUCKET": bucket}}}
    return library.Config.from_plain(plain)


def saved(content: object, **how: bool) -> bytes:
    """Return the bytes of what torch saves."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def test_the_old_format_and_pins_are_rehearsed_from_the_bucket(b2, cache: Path) -> None:
    """A file of the format before torch 1.6 is told by its beginning, one that is pinned by its name."""
    old = saved(conv() | {"optimizer": torch.zeros(2_000_000)}, _use_new_zipfile_serialization=False)
    new = saved(vit())
    cfg = in_bucket(b2, cache, **{"conv.pth": old, "vit.pth": new})
    pinned = f"vit.pth@sha256:{hashlib.sha256(new).hexdigest()}"
    model = cfg.MODEL.model_copy(update={"PRETRAINED_ROPEVIT": pinned})
    cfg = cfg.model_copy(update={"MODEL": model})
    from linnaeus.models import build_model

    report = library.preview(cfg, build_model(cfg))
    assert report.is_enough
    assert "not yet compared" in report.sources[1].path
    assert b2.bytes_served(f"{PREFIX}conv.pth") < 600 << 10
    assert not cache.exists()


def test_a_rehearsal_fetches_no_missing_file_of_a_sharded_checkpoint(b2, cache: Path) -> None:
    """With the index in the cache and its files in the bucket, the latter are told by their headers."""
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = conv()["model"]
    first = {name: tensor for name, tensor in tensors.items() if name.startswith("stages.")}
    parts = {"a.safetensors": first, "b.safetensors": {n: t for n, t in tensors.items() if n not in first}}
    places = {name: part for part, held in parts.items() for name in held}
    files = {part: safetensors.save(held) for part, held in parts.items()}
    cfg = in_bucket(b2, cache, **files, **{"vit.pth": saved(vit())})
    cache.mkdir()
    index = cache / "conv.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    model = cfg.MODEL.model_copy(update={"PRETRAINED_CONVNEXT": index.name})
    cfg = cfg.model_copy(update={"MODEL": model})
    from linnaeus.models import build_model

    assert library.preview(cfg, build_model(cfg)).is_enough
    assert [path.name for path in cache.iterdir()] == [index.name]
