"""What was loaded is kept: beside the run's checkpoints and in each of them."""

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
    kept = json.loads((tmp_path / "run" / "load_report.json").read_text())
    assert kept == json.loads(json.dumps(report.to_plain()))
    assert kept["sources"][0]["identifier"] == "w.pth"


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
