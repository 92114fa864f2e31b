"""One checkpoint into a model of any kind, in memory."""

import json
import pickle
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linnaeus.errors import ConfigError, IncompatibleWeightsError
from linnaeus.pretrained import LoadReport
from linnaeus.pretrained._fit import Source
from linnaeus.pretrained._rulebook import RULE_SETS, packaged_rules
from linnaeus.pretrained._transfer import transfer
from linnaeus.pretrained._unwrap import PREFIXES, unwrap
from support.published import ropevit


class Net(nn.Module):
    """A small backbone with a norm of each kind and a head."""

    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.norm = nn.LayerNorm(width)
        self.norm1 = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)


def net(**options):
    """Build a Net whose parameters and buffers all differ from one another's and from a fresh one's."""
    model = Net(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model.bn.running_mean.normal_()
    return model


def load(state, model, *, min_coverage=0.9):
    """Load one state dict, or what holds one, into a model."""
    unwrapped = unwrap(state, "x.pth")
    source = Source(
        name="pretrained",
        identifier="x.pth",
        path="/cache/x.pth",
        unwrapped=unwrapped,
        rules=tuple(map(packaged_rules, RULE_SETS)),
    )
    return transfer([source], model, min_coverage=min_coverage)


def differing(model, state):
    """Return the names at which a model differs from a state dict."""
    return [name for name, t in model.state_dict().items() if not torch.equal(t, state[name])]


def test_the_same_architecture_is_loaded_whole():
    """Every parameter and buffer arrives, the head of the same size too, and the counts say so."""
    source, model = net(), net()
    report = load(source.state_dict(), model)
    assert differing(model, source.state_dict()) == []
    assert report.num_loaded == report.num_parameters == sum(p.numel() for p in model.parameters())
    assert (report.num_adapted, report.num_fresh, report.num_unused) == (0, 0, 0)


def test_parameters_are_filled_in_place():
    """The optimizer's parameters stay the model's, in their own dtype and shape."""
    source, model = net(), net().double()
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    load(source.state_dict(), model)
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == before
    assert model.stem.weight.dtype is torch.float64
    assert torch.equal(model.stem.weight, source.stem.weight.double())
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


@pytest.mark.parametrize("side", ["source", "model"])
@pytest.mark.parametrize(
    "prefix", [*PREFIXES, "module._orig_mod.", "_orig_mod.module.", "model.backbone.", "module.encoder."]
)
def test_prefixes_of_wrappers_are_stripped_on_both_sides(side, prefix):
    """DDP, compile, nested or custom wrappers around the source or the model change nothing."""
    source, model = net(), net()
    wrapped = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    if side == "source":
        report = load({"state_dict": wrapped}, model)
        assert report.sources[0].prefix == prefix
    else:
        outer = model
        for part in reversed(prefix.strip(".").split(".")):
            inner, outer = outer, nn.Module()
            outer.add_module(part, inner)
        report = load(source.state_dict(), outer)
    assert report.coverage == 1.0
    assert differing(model, source.state_dict()) == []


def test_prefixes_that_both_sides_have_stay():
    """Where names fit as they are, nothing is stripped."""
    model, source = nn.Module(), nn.Module()
    model.encoder, source.encoder = net(), net()
    report = load(source.state_dict(), model)
    assert (report.coverage, report.sources[0].prefix) == (1.0, "")


def test_a_prefix_on_some_names_only_is_stripped_there():
    """A backbone in a wrapper beside a bare head is found as a whole."""
    source, model = net(), net()
    state = {(n if n.startswith("head.") else f"backbone.{n}"): t for n, t in source.state_dict().items()}
    load(state, model)
    assert differing(model, source.state_dict()) == []


def test_a_head_of_another_size_stays_fresh_and_the_report_says_so():
    """The backbone is loaded whole, coverage does not count the head, and both shapes are named."""
    source, model = net(num_classes=10), net(num_classes=3)
    before = model.head.weight.clone()
    report = load({"model": source.state_dict(), "optimizer": {}, "epoch": 3, "step": 9}, model)
    assert report.coverage == 1.0
    assert torch.equal(model.head.weight, before)
    assert [(m.name, m.shape, m.source_shape) for m in report.mismatches] == [
        ("head.weight", (3, 4), (10, 4)),
        ("head.bias", (3,), (10,)),
    ]
    assert any("heads are fresh" in note and "(10, 4) there" in note for note in report.notes)


def test_too_little_is_an_error_and_the_model_untouched():
    """Below the coverage nothing is copied; the error gives the share and what is missing."""
    source, model = net().state_dict(), net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del source["stem.weight"]
    with pytest.raises(IncompatibleWeightsError, match=r"% of \d+ parameters from x\.pth") as caught:
        load(source, model)
    assert any("stem.weight" in line for line in caught.value.details)
    assert differing(model, before) == []


def test_the_coverage_that_is_asked_for_can_be_lowered():
    """With a lower MIN_COVERAGE the same load is taken, and reported as it is."""
    source, model = net().state_dict(), net()
    del source["norm1.weight"]
    report = load(source, model, min_coverage=0.5)
    assert [a.name for a in report.missing()] == ["norm1.weight"]
    assert report.num_fresh == 4


def test_a_misspelt_name_gets_a_hint():
    """An unused tensor of the right shape names the parameter that it was probably meant for."""
    source = net().state_dict()
    source = {name.replace("stem.", "stemm."): tensor for name, tensor in source.items()}
    report = load(source, net(), min_coverage=0.0)
    assert {u.name: u.nearest for u in report.unused}["stemm.weight"] == "stem.weight"
    assert any("stemm.weight: meant stem.weight?" in line for line in report.problems())


def test_buffers_are_loaded_and_named_but_not_counted():
    """Running statistics arrive; the parameter counts leave them out."""
    report = load(net().state_dict(), net())
    buffers = [a for a in report.arrivals if not a.is_parameter]
    assert {a.status for a in buffers} == {"loaded"}
    assert "bn.running_mean" in {a.name for a in buffers}


def test_whole_numbers_are_not_taken_for_weights():
    """A quantized tensor of the right shape is a mismatch, not a cast."""
    source, model = net().state_dict(), net()
    source["stem.weight"] = torch.ones_like(source["stem.weight"], dtype=torch.int8)
    report = load(source, model, min_coverage=0.0)
    (mismatch,) = report.mismatches
    assert "float32" in mismatch.line()
    assert "int8" in mismatch.line()


def test_a_shared_tensor_is_filled_once_and_counted_once():
    """Tied parameters count once, as in model.parameters(), and may have two equal copies in the source."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 3)
            self.unembed = self.embed

    source, model = Tied(), Tied()
    report = load(OrderedDict((n, t.clone()) for n, t in source.state_dict().items()), model)
    assert report.num_parameters == report.num_loaded == 12
    assert report.num_unused == 0
    assert differing(model, source.state_dict()) == []


def test_a_shared_tensor_with_two_values_is_refused():
    """Two different values for one tied parameter are a double claim."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 3)
            self.unembed = self.embed

    state = {name: torch.randn_like(tensor) for name, tensor in Tied().state_dict().items()}
    with pytest.raises(IncompatibleWeightsError, match="claimed twice"):
        load(state, Tied())


def test_a_model_without_memory_is_refused():
    """Weights copied to the meta device would vanish without a word."""
    with torch.device("meta"):
        model = Net()
    with pytest.raises(IncompatibleWeightsError, match="meta device"):
        load(net().state_dict(), model)


class Gathering(Net):
    """A Net whose state dict has copies, as wrappers give them that gather a state from ranks."""

    def state_dict(self, *args, **kwargs):
        return {name: tensor.clone() for name, tensor in super().state_dict(*args, **kwargs).items()}


def test_a_model_whose_state_dict_has_copies_is_refused():
    """Filling a copy would change nothing and look like a load."""
    with pytest.raises(IncompatibleWeightsError, match="only a copy of it"):
        load(net().state_dict(), Gathering())


class Counting(nn.Linear):
    """A layer with state of its own making."""

    def get_extra_state(self):
        return torch.ones(2)

    def set_extra_state(self, state):
        """Take it."""


def test_state_of_a_modules_own_making_is_not_taken_for_a_tensor():
    """It is no parameter or buffer: what a source has of it is left, and said to be."""
    model = Counting(2, 2)
    report = load(Counting(2, 2).state_dict(), model)
    assert [u.name for u in report.unused] == ["_extra_state"]
    assert report.num_fresh == 0


def test_layer_scale_is_folded_into_a_vit_that_has_none():
    """A single source of known kind is adapted as in stitching: gamma goes into proj and fc2."""
    state = ropevit(16, 1, 2)
    model = nn.Module()
    for name, tensor in state.items():
        if "gamma" not in name and not name.startswith(("head.", "freqs_t")):
            _plant(model, name, torch.zeros_like(tensor))
    report = load({"model": state}, model)
    scaled = state["blocks.0.gamma_1"][:, None] * state["blocks.0.attn.proj.weight"]
    torch.testing.assert_close(model.get_parameter("blocks.0.attn.proj.weight").detach(), scaled)
    assert report.sources[0].rules == "ropevit"
    assert torch.equal(model.freqs, state["freqs"])


def _plant(model, name, tensor):
    *path, last = name.split(".")
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    model.register_parameter(last, nn.Parameter(tensor))


def wishing(**wishes):
    """Build a Net with pretrained_ckpt_handling_metadata."""

    class Wishing(Net):
        pretrained_ckpt_handling_metadata = wishes

    return Wishing()


def test_a_model_drops_by_exact_prefix():
    """drop_params norm. drops norm.weight and norm.bias, and neither norm1 nor the norm of others."""
    source, model = net().state_dict(), wishing(drop_params=["norm."], drop_buffers=["bn.running_"])
    report = load(source, model)
    assert {u.name for u in report.unused} == {
        "norm.weight",
        "norm.bias",
        "bn.running_mean",
        "bn.running_var",
    }
    assert torch.equal(model.norm1.weight, source["norm1.weight"])
    assert report.coverage == 1.0


def test_a_wrapped_model_is_asked_too():
    """The metadata is found inside a wrapper."""
    outer = nn.Module()
    outer.module = wishing(drop_params=["norm."])
    assert len(load(net().state_dict(), outer).unused) == 2


def test_a_model_may_refuse_the_module_prefix():
    """With supports_module_prefix false, module. is not stripped."""
    state = {f"module.{name}": tensor for name, tensor in net().state_dict().items()}
    with pytest.raises(IncompatibleWeightsError):
        load(state, wishing(supports_module_prefix=False))


@pytest.mark.parametrize("change", ["missing", "extra", "head"])
def test_a_strict_model_takes_all_or_nothing(change):
    """With strict true any missing, unknown or resized tensor is an error, heads included."""
    state = net(num_classes=5 if change == "head" else 3).state_dict()
    if change == "missing":
        del state["norm.bias"]
    if change == "extra":
        state["new.weight"] = torch.ones(1)
    with pytest.raises(IncompatibleWeightsError):
        load(state, wishing(strict=True))
    load(net().state_dict(), wishing(strict=True))


def test_tables_are_not_resampled_for_a_model_that_forbids_it():
    """With interpolate_rel_pos_bias false, a table of another size is a mismatch that says so."""
    state = {**net().state_dict(), "attn.relative_position_bias_table": torch.ones(9, 2)}
    model = wishing(interpolate_rel_pos_bias=False)
    _plant(model, "attn.relative_position_bias_table", torch.ones(25, 2))
    report = load(state, model, min_coverage=0.0)
    assert "no resampling" in report.mismatches[0].line()


def test_metadata_that_is_none_is_refused():
    """A text in place of a list of prefixes would drop by single letters."""
    with pytest.raises(ConfigError, match="drop_params"):
        load(net().state_dict(), wishing(drop_params="norm."))


def names():
    """Draw names of a few modules."""
    part = st.sampled_from(["stem", "norm", "norm1", "head", "blocks.0.fc", "module.stem", "x"])
    return st.builds(lambda a, b: f"{a}.{b}", part, st.sampled_from(["weight", "bias", "delta"]))


def tensors():
    """Draw state dicts of small tensors."""
    sizes = st.integers(1, 3)
    return st.dictionaries(
        names(), st.builds(lambda n, m: torch.rand(n, m), sizes, sizes), min_size=1, max_size=8
    )


@settings(max_examples=60, deadline=None)
@given(tensors(), tensors())
def test_counts_add_up_and_every_target_is_claimed_at_most_once(source, target):
    """Whatever meets whatever: the report's counts are the model's, and no source tensor is lost from it."""
    model = nn.Module()
    for name, tensor in target.items():
        _plant(model, name, tensor)
    report = load(source, model, min_coverage=0.0)
    assert report.num_loaded + report.num_adapted + report.num_fresh == report.num_parameters
    assert report.num_parameters == sum(p.numel() for p in model.parameters())
    assert sum(r.loaded + r.adapted + r.fresh for r in report.modules()) == report.num_parameters
    assert len({a.name for a in report.arrivals}) == len(report.arrivals) == len(model.state_dict())
    used = [origin for a in report.arrivals for origin in a.origins]
    assert len(used) == len(set(used))
    assert {*used, *(u.name for u in report.unused)} == set(source)
    for arrival in report.arrivals:
        if arrival.status == "loaded":
            assert torch.equal(model.get_parameter(arrival.name), source[arrival.origins[0]])


def test_the_report_is_plain_data():
    """A report can be written as JSON and sent between processes."""
    report = load(net().state_dict(), net())
    plain = json.loads(json.dumps(report.to_plain()))
    assert plain["counts"]["loaded"] == report.num_loaded
    assert plain["coverage"] == 1.0
    assert isinstance(pickle.loads(pickle.dumps(report)), LoadReport)
