import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linnaeus.errors import IncompatibleWeightsError
from linnaeus.pretrained._unwrap import CONTAINERS, PREFIXES, prefix_chains, strip, stripped, unwrap

STATE = {"a.weight": torch.ones(2)}


@pytest.mark.parametrize("key", CONTAINERS)
def test_weights_are_found_under_every_key_that_people_use(key):
    """Each container is opened, whatever else lies beside it."""
    found = unwrap({key: STATE, "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}}, "x.pth")
    assert set(found.tensors) == {"a.weight"}
    assert found.container == key


def test_a_bare_state_dict_is_taken_as_it_is():
    """Tensors at the top are the weights; what is no tensor is passed over."""
    found = unwrap({**STATE, "version": 1}, "x.pth")
    assert (set(found.tensors), found.container) == ({"a.weight"}, "")


def test_containers_may_be_nested():
    """A state dict in a state dict is found, and the report can say where."""
    assert unwrap({"model": {"state_dict": STATE}}, "x.pth").container == "model.state_dict"


def test_trained_weights_are_preferred_to_their_average():
    """Of model and model_ema the first is taken and the other named."""
    found = unwrap({"model_ema": {"a.weight": torch.zeros(2)}, "model": STATE}, "x.pth")
    assert (found.container, found.others) == ("model", ("model_ema",))


def test_a_module_named_model_is_no_container():
    """Names that begin with model. in a bare state dict are names."""
    assert unwrap({"model.a": torch.ones(1)}, "x.pth").container == ""


@pytest.mark.parametrize("loaded", [{"epoch": 3}, {"model": {}}, [torch.ones(1)], {}])
def test_a_file_without_weights_is_refused(loaded):
    """The error names the file and what it holds instead."""
    with pytest.raises(IncompatibleWeightsError, match=r"x\.pth.*holds no weights") as caught:
        unwrap(loaded, "x.pth")
    assert caught.value.details


@given(st.lists(st.sampled_from(PREFIXES), max_size=4))
def test_every_nesting_of_prefixes_can_be_stripped(prefixes):
    """For each chain of up to four wrappers one of the candidates brings the plain names back."""
    names = ["".join(prefixes) + name for name in ("stem.weight", "head.bias")]
    candidates = [{strip(name, chain) for name in names} for chain in prefix_chains(names)]
    assert candidates[0] == set(names)
    assert {"stem.weight", "head.bias"} in candidates


def test_of_two_names_that_become_one_the_wrapped_one_stays():
    """When backbone.x and x both exist, stripping backbone. does not lose the wrapped tensor."""
    tensors = {"x": torch.zeros(1), "backbone.x": torch.ones(1)}
    assert stripped(tensors, ("backbone.",)) == {"x": "backbone.x"}
