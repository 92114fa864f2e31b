"""Rules compose, and those that have a way back go it exactly."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnaeus.pretrained._rulebook import packaged_rules, read_rule
from linnaeus.pretrained._rules import RuleSet
from linnaeus.pretrained._weights import offer_of

INDEX = st.integers(0, 12).map(str)
KIND = st.sampled_from(["weight", "bias"])
BLOCK = st.lists(st.sampled_from(["blocks", "0", "11", "attn", "trunk"]), min_size=1, max_size=3).map(
    ".".join
)


def values(offer):
    """Return what an offer holds, read."""
    return {name: weight.read() for name, weight in offer.weights.items()}


def assert_same(one, other):
    """Assert that two offers hold the same tensors under the same names."""
    first, second = values(one), values(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def there_and_back(rule, offer, target=()):
    """Apply a rule and its inverse."""
    shapes = dict.fromkeys(target, (1,))
    return rule.inverse().apply(rule.apply(offer, shapes), {})


@st.composite
def states(draw, names, shape=(6, 4)):
    """Draw a state dict over some names."""
    chosen = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    return {name: torch.rand(shape) for name in chosen}


NAMES = st.builds(lambda b, k: f"{b}.qkv.{k}", BLOCK, KIND) | st.builds(
    lambda b, k: f"{b}.norm.{k}", BLOCK, KIND
)


@settings(max_examples=50, deadline=None)
@given(states(NAMES))
def test_splitting_and_merging_are_each_others_inverse(state):
    """q, k and v put together again are qkv, and the parts of a whole are its thirds in order."""
    into = [f"{{block...}}.{part}.{{kind}}" for part in "qkv"]
    rule = read_rule({"split": {"name": "{block...}.qkv.{kind}", "into": into}}, "test")
    offer = offer_of(state)
    parts = rule.apply(offer, {})
    assert not any(".qkv." in name for name in parts.weights)
    assert_same(there_and_back(rule, offer), offer)
    assert_same(there_and_back(rule.inverse(), parts), parts)
    for name, tensor in state.items():
        if ".qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                assert torch.equal(values(parts)[name.replace(".qkv.", f".{part}.")], third)


@settings(max_examples=50, deadline=None)
@given(states(NAMES), st.permutations([0, 1]))
def test_transposing_has_a_way_back(state, dims):
    """Turning the dimensions back gives what there was."""
    rule = read_rule({"transpose": {"name": "{any...}", "dims": list(dims)}}, "test")
    offer = offer_of(state)
    assert_same(there_and_back(rule, offer), offer)
    assert all(w.shape == tuple(w.read().shape) for w in rule.apply(offer, {}).weights.values())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1))
def test_indexing_layers_and_stacking_them_are_each_others_inverse(depth, dim):
    """One tensor for all layers becomes one for each, and one again."""
    whole = torch.rand((2, depth, 6) if dim else (depth, 2, 6))
    rule = read_rule({"layers": {"name": "freqs", "to": "blocks.{index}.freqs", "dim": dim}}, "test")
    offer = offer_of({"freqs": whole, "other": torch.rand(2)})
    parts = rule.apply(offer, {})
    assert len(parts.weights) == depth + 1
    assert all(torch.equal(values(parts)[f"blocks.{i}.freqs"], whole.select(dim, i)) for i in range(depth))
    assert_same(there_and_back(rule, offer), offer)


def test_stacking_views_each_layer_as_the_whole_wants_it():
    """Layers of (2, heads, pairs) are stacked into a whole of (2, depth, heads * pairs)."""
    rule = read_rule({"stack": {"names": "blocks.{index}.freqs", "to": "freqs", "dim": 1}}, "test")
    layers = {f"blocks.{i}.freqs": torch.rand(2, 3, 4) for i in range(5)}
    whole = values(rule.apply(offer_of(layers), {"freqs": (2, 5, 12)}))["freqs"]
    assert torch.equal(whole, torch.stack([layer.flatten(1) for layer in layers.values()], 1))


@settings(max_examples=50, deadline=None)
@given(states(st.builds(lambda i, k: f"stages.{i}.blocks.{k}", INDEX, KIND)), BLOCK)
def test_renaming_by_template_or_prefix_has_a_way_back(state, block):
    """A renamed state is renamed back to what it was."""
    offer = offer_of(state)
    for rule in (
        {"rename": {"name": "stages.{i}.blocks.{rest...}", "to": "s{i}.{rest...}"}},
        {"rename": {"prefix": "stages.", "to": f"{block}.x."}},
    ):
        assert_same(there_and_back(read_rule(rule, "test"), offer), offer)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rules_compose(data):
    """The inverse of several rules is their inverses in the other order."""
    rules = [
        {"rename": {"prefix": "trunk.", "to": "body."}},
        {"split": {"name": "body.{i}.qkv.{kind}", "into": [f"body.{{i}}.{p}.{{kind}}" for p in "qkv"]}},
        {"transpose": {"name": "body.{i}.q.{kind}", "dims": [1, 0]}},
        {"rename": {"name": "body.{i}.{rest...}", "to": "layers.{i}.inner.{rest...}"}},
    ]
    names = st.builds(lambda i, w, k: f"trunk.{i}.{w}.{k}", INDEX, st.sampled_from(["qkv", "fc"]), KIND)
    offer = offer_of(data.draw(states(names)))
    rule_set = RuleSet("test", frozenset(), tuple(read_rule(rule, "test") for rule in rules))
    assert_same(there_and_back(rule_set, offer), offer)


def test_rules_that_lose_something_have_no_way_back():
    """What is dropped, folded or only captured in part can't be undone, and says so by having no inverse."""
    for rule in (
        {"drop": {"prefix": "x.", "why": "test"}},
        {"rename": {"match": r"a\.\d+\.(.*)", "to": r"b.\1"}},
        {"fold": {"scale": r"g", "into": ["w"]}},
    ):
        made = read_rule(rule, "test")
        assert made.inverse() is None
        assert RuleSet("test", frozenset(), (made,)).inverse() is None


def test_the_packaged_dialect_can_be_undone():
    """What timm calls by other names is found under those again."""
    rules = packaged_rules("convnext_timm")
    assert rules.dialect
    assert rules.inverse() is not None
