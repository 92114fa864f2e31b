"""What was loaded is kept: beside the run's checkpoints and in each of them."""

import hashlib
import json

import torch
from torch import nn

import linnaeus
from linnaeus.pretrained import load_pretrained, report_of


def model():
    """Build a small model."""
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


def config(tmp_path, **sections):
    """Return a config of a run whose model starts from w.pth."""
    plain = {
        "ENV": {
            "INPUT": {"CACHE_DIR": str(tmp_path)},
            "OUTPUT": {"DIRS": {"CHECKPOINTS": str(tmp_path / "run")}},
        },
        "MODEL": {"PRETRAINED": "w.pth"},
        **sections,
    }
    return linnaeus.Config.from_plain(plain)


def lineage(ckpt):
    """Return the lineage of the newest checkpoint."""
    return linnaeus.describe(ckpt.last_saved).about["lineage"]


def test_the_report_is_kept_beside_and_in_every_checkpoint(tmp_path):
    """Without a further call: load, train, save."""
    torch.save(model().state_dict(), tmp_path / "w.pth")
    cfg, net = config(tmp_path), model()
    report = load_pretrained(cfg, net)
    ckpt = linnaeus.CheckpointManager(cfg, model=net)
    for _ in range(2):
        ckpt.save()
        assert lineage(ckpt)["pretrained"]["counts"] == report.to_plain()["counts"]
    text = (tmp_path / "run" / "load_report.json").read_bytes()
    assert lineage(ckpt)["pretrained"]["report_sha256"] == hashlib.sha256(text).hexdigest()
    kept = json.loads(text)
    assert kept == json.loads(json.dumps(report.to_plain()))
    assert kept["sources"][0]["identifier"] == "w.pth"


def test_what_each_checkpoint_keeps_is_short(tmp_path):
    """Counts by module and source, and what is wrong; the names of all tensors stand beside, once."""
    layers = [nn.ModuleDict({f"layer_{n}": nn.Linear(3, 3) for n in range(30)}) for _ in range(8)]
    wide = nn.ModuleDict({f"stage_{n}": stage for n, stage in enumerate(layers)})
    state = wide.state_dict()
    state["stage_7.layer_29.weigth"] = state.pop("stage_7.layer_29.weight")
    torch.save(state, tmp_path / "w.pth")
    cfg = config(tmp_path)
    report = load_pretrained(cfg, wide)
    ckpt = linnaeus.CheckpointManager(cfg, model=wide)
    ckpt.save()
    kept = lineage(ckpt)["pretrained"]
    assert sum(row["loaded"] + row["fresh"] for row in kept["modules"]) == report.num_parameters
    assert (kept["counts"]["fresh"], kept["sources"][0]["num_used"]) == (9, 479)
    assert "pretrained has stage_7.layer_29.weigth: meant stage_7.layer_29.weight?" in kept["problems"]
    assert len(json.dumps(kept)) < 4_000 < 40_000 < len(report.to_text())


def test_a_resumed_run_hands_on_where_it_came_from(tmp_path):
    """What a resume overwrites is no lineage; what the checkpoint says is."""
    torch.save(model().state_dict(), tmp_path / "w.pth")
    cfg, net = config(tmp_path), model()
    load_pretrained(cfg, net)
    first = linnaeus.CheckpointManager(cfg, model=net)
    first.save()
    torch.save(model().state_dict(), tmp_path / "other.pth")
    other = config(tmp_path, MODEL={"PRETRAINED": "other.pth"})
    again = model()
    load_pretrained(other, again)
    ckpt = linnaeus.CheckpointManager(other, model=again)
    ckpt.resume()
    ckpt.save()
    assert lineage(ckpt)["pretrained"]["sources"][0]["identifier"] == "w.pth"


def test_a_run_from_nothing_has_no_report(tmp_path):
    """Without pretrained weights there is neither lineage nor file."""
    cfg = config(tmp_path, MODEL={})
    net = model()
    load_pretrained(cfg, net)
    ckpt = linnaeus.CheckpointManager(cfg, model=net)
    ckpt.save()
    assert lineage(ckpt) == {}
    assert not (tmp_path / "run" / "load_report.json").exists()
    assert report_of(net) is None


def test_the_report_is_no_part_of_the_models_state(tmp_path):
    """A model that was loaded into has the state dict that it had."""
    torch.save(model().state_dict(), tmp_path / "w.pth")
    net = model()
    before = list(net.state_dict())
    load_pretrained(config(tmp_path), net)
    assert list(net.state_dict()) == before
    outer = nn.Module()
    outer.module = net
    assert report_of(outer) is report_of(net)
