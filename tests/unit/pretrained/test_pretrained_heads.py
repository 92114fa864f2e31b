"""What happens to classification heads."""

import pytest
import torch
from torch import nn

from linnaeus.config import Config
from linnaeus.errors import ConfigError, IncompatibleWeightsError
from linnaeus.models import build_model
from linnaeus.pretrained import load_pretrained
from support.published import convnext, ropevit


class Net(nn.Module):
    """A backbone and two heads."""

    def __init__(self, species=3, genus=2):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({"species": nn.Linear(4, species), "genus": nn.Linear(4, genus)})


@pytest.fixture
def source(tmp_path):
    """A checkpoint of a Net; returns its model."""
    model = Net()
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    return model


def load(tmp_path, model, heads, name="net.pth"):
    """Load the checkpoint with a policy for heads."""
    options = {"PRETRAINED": name, "PRETRAINED_HEADS": heads}
    cfg = Config.from_plain({"MODEL": options, "ENV": {"INPUT": {"CACHE_DIR": str(tmp_path)}}})
    return load_pretrained(cfg, model)


def test_heads_of_the_same_shape_are_loaded_and_others_stay_fresh(source, tmp_path):
    """Without a word about heads, or with `fit`, what fits is loaded and the rest is named."""
    model = Net(species=9)
    report = load(tmp_path, model, None)
    assert torch.equal(model.heads["genus"].weight, source.heads["genus"].weight)
    assert any("heads are fresh: heads.species.weight ((3, 4) there)" in note for note in report.notes)
    assert load(tmp_path, Net(species=9), "fit").num_fresh == report.num_fresh


def test_dropped_heads_stay_fresh_even_where_they_fit(source, tmp_path):
    """`drop` loads no head, for another set of classes of the same number."""
    model = Net()
    before = model.heads["species"].weight.clone()
    report = load(tmp_path, model, "drop")
    assert torch.equal(model.heads["species"].weight, before)
    assert {u.reason for u in report.unused} == {"heads are dropped (MODEL.PRETRAINED_HEADS)"}


def test_heads_to_be_kept_must_all_arrive(source, tmp_path):
    """`keep` is an error when one head has another shape, and loads all when none has."""
    with pytest.raises(IncompatibleWeightsError, match=r"heads\.species\.weight stays fresh"):
        load(tmp_path, Net(species=9), "keep")
    assert load(tmp_path, Net(), "keep").num_fresh == 0


def test_heads_are_mapped_by_the_names_of_classes(source, tmp_path):
    """Each class that both know gets its row, others stay fresh, and the counts say how many arrived."""
    (tmp_path / "ours.txt").write_text("oak\nelm\nyew\nfir\n")
    model = Net(species=4)
    before = model.heads["species"].weight.clone()
    mapping = {"CLASSES": str(tmp_path / "ours.txt"), "SOURCE_CLASSES": ["yew", "ash", "oak"]}
    report = load(tmp_path, model, {"species": mapping})
    theirs, ours = source.heads["species"], model.heads["species"]
    assert torch.equal(ours.weight[0], theirs.weight[2])
    assert torch.equal(ours.weight[2], theirs.weight[0])
    assert torch.equal(ours.weight[[1, 3]], before[[1, 3]])
    assert torch.equal(ours.bias[0], theirs.bias[2])
    assert (report.num_adapted, report.num_fresh) == (2 * 4 + 2, 2 * 4 + 2)
    assert report.num_loaded + report.num_adapted + report.num_fresh == report.num_parameters
    assert "2 of 4 classes by name" in {a.note for a in report.arrivals}


def test_a_head_may_come_from_one_of_another_name(tmp_path):
    """FROM names the source's module."""
    state = {"stem.weight": torch.rand(4, 4), "stem.bias": torch.rand(4)}
    state |= {"head.weight": torch.rand(2, 4), "head.bias": torch.rand(2)}
    torch.save(state, tmp_path / "other.pth")
    model = Net(species=1)
    mapping = {"FROM": "head", "CLASSES": ["b"], "SOURCE_CLASSES": ["a", "b"]}
    load(tmp_path, model, {"heads.species": mapping}, name="other.pth")
    assert torch.equal(model.heads["species"].weight[0], state["head.weight"][1])


@pytest.mark.parametrize(
    ("heads", "match"),
    [
        ("all", "fit, drop, keep"),
        (3, "fit, drop, keep"),
        ({"species": {"CLASSES": ["a"]}}, "SOURCE_CLASSES"),
        ({"species": {"CLASSES": ["a"], "SOURCE_CLASSES": ["b"]}}, "not one name in common"),
        ({"species": {"CLASSES": ["a", "a"], "SOURCE_CLASSES": ["a"]}}, "twice"),
        ({"species": {"CLASSES": "/no/such/file", "SOURCE_CLASSES": ["a"]}}, "can't be read"),
        ({"order": {"CLASSES": ["a"], "SOURCE_CLASSES": ["a"]}}, "no such head"),
    ],
)
def test_a_policy_that_is_none_is_refused(source, tmp_path, heads, match):
    """Each mistake is a ConfigError that names the key."""
    with pytest.raises(ConfigError, match=match) as caught:
        load(tmp_path, Net(), heads)
    assert "MODEL.PRETRAINED_HEADS" in caught.value.field


def test_lists_of_classes_that_are_not_the_heads_are_refused(source, tmp_path):
    """As many names as rows, on both sides, or nothing is loaded."""
    mapping = {"CLASSES": ["a", "b", "c"], "SOURCE_CLASSES": ["a", "b"]}
    with pytest.raises(IncompatibleWeightsError, match="2 SOURCE_CLASSES for 3 rows"):
        load(tmp_path, Net(), {"species": mapping})


def stitched(tmp_path, **head):
    """Stitch an mFormer_nano whose head is mapped by class."""
    torch.save(
        {"model": convnext((24, 48, 96, 192), (1, 1, 1, 1), num_classes=5, patch=1)}, tmp_path / "conv.pth"
    )
    torch.save({"model": ropevit(96, 3, 3, mlp_ratio=2, num_classes=5)}, tmp_path / "vit.pth")
    model = {"NAME": "mFormer_nano", "HEADS": {"species": 3}, "PRETRAINED_HEADS": {"species": head}}
    model |= {"PRETRAINED_CONVNEXT": "conv.pth", "PRETRAINED_ROPEVIT": "vit.pth"}
    cfg = Config.from_plain({"MODEL": model, "ENV": {"INPUT": {"CACHE_DIR": str(tmp_path)}}})
    built = build_model(cfg)
    return built, load_pretrained(cfg, built)


def test_a_stitched_model_takes_a_mapped_head_from_the_source_that_it_fits(tmp_path):
    """Both sources have a head; that of the transformer has the model's width, so its rows are taken."""
    model, report = stitched(tmp_path, FROM="head", CLASSES=list("cxa"), SOURCE_CLASSES=list("abcde"))
    theirs = torch.load(tmp_path / "vit.pth", weights_only=True)["model"]
    assert torch.equal(model.heads["species"].weight[[0, 2]], theirs["head.weight"][[2, 0]])
    assert torch.equal(model.heads["species"].bias[[0, 2]], theirs["head.bias"][[2, 0]])
    assert {a.source for a in report.arrivals if a.is_head} == {"ropevit"}
    assert report.coverage == 1.0


@pytest.mark.parametrize("head", [{"FROM": "fc"}, {}, {"FROM": "head", "SOURCE_CLASSES": list("abcd")}])
def test_a_mapping_that_no_source_can_meet_is_refused(tmp_path, head):
    """A module that no source has, or lists that are not its classes: asked for and not done is an error."""
    with pytest.raises(IncompatibleWeightsError, match="no source has"):
        stitched(tmp_path, **{"CLASSES": list("cxa"), "SOURCE_CLASSES": list("abcde"), **head})


def test_two_heads_may_be_mapped_from_one(tmp_path):
    """The source's head is read for each of them, and a head that is mapped twice is refused."""
    state = {"stem.weight": torch.rand(4, 4), "stem.bias": torch.rand(4), "head.weight": torch.rand(2, 4)}
    torch.save(state, tmp_path / "other.pth")
    one = {"FROM": "head", "CLASSES": ["b"], "SOURCE_CLASSES": ["a", "b"]}
    other = {"FROM": "head", "CLASSES": ["a"], "SOURCE_CLASSES": ["a", "b"]}
    model = Net(species=1, genus=1)
    load(tmp_path, model, {"species": one, "genus": other}, name="other.pth")
    assert torch.equal(model.heads["species"].weight[0], state["head.weight"][1])
    assert torch.equal(model.heads["genus"].weight[0], state["head.weight"][0])
    with pytest.raises(IncompatibleWeightsError, match="mapped by class twice"):
        load(tmp_path, model, {"species": one, "heads.species": other}, name="other.pth")
