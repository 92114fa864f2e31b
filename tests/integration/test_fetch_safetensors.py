"""Safetensors from a bucket: verified as they arrive, one file or several."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import linnaeus
from linnaeus.errors import CorruptCheckpointError
from linnaeus.pretrained import load_pretrained, preview


@pytest.fixture
def place(tmp_path):
    """A bucket that is a directory, with a model in one file and in two."""
    (tmp_path / "bucket").mkdir()
    state = nn.Linear(3, 2).state_dict()
    save_file(state, tmp_path / "bucket" / "one.safetensors")
    for name in state:
        save_file({name: state[name]}, tmp_path / "bucket" / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in state}}
    (tmp_path / "bucket" / "two.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def config(place, name):
    """Return a config that names one of the bucket's files."""
    bucket = {"ENABLED": True, "REMOTE": ":local:", "NAME": str(place / "bucket"), "PATH_PREFIX": ""}
    plain = {
        "ENV": {"INPUT": {"CACHE_DIR": str(place / "cache"), "BUCKET": bucket}},
        "MODEL": {"PRETRAINED": name},
    }
    return linnaeus.Config.from_plain(plain)


@pytest.mark.parametrize("name", ["one.safetensors", "two.safetensors.index.json"])
def test_a_model_is_rehearsed_there_and_then_fetched_and_loaded(place, name):
    """The rehearsal fetches nothing and foretells what the load does."""
    cfg, model = config(place, name), nn.Linear(3, 2)
    foretold = preview(cfg, model)
    assert (foretold.coverage, (place / "cache").exists()) == (1.0, False)
    report = load_pretrained(cfg, model)
    assert report.num_loaded == foretold.num_loaded == 8
    assert torch.equal(model.weight, linnaeus.load(place / "bucket" / "one.safetensors")["weight"])


def test_a_damaged_file_does_not_enter_the_cache(place):
    """What arrives cut short is refused."""
    file = place / "bucket" / "one.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorruptCheckpointError):
        load_pretrained(config(place, "one.safetensors"), nn.Linear(3, 2))
    assert not (place / "cache" / "one.safetensors").exists()
