import pytest
import torch

from linnaeus.errors import ConfigError
from linnaeus.pretrained._recipe import STITCHED, packaged_recipe
from linnaeus.pretrained._rulebook import RULE_SETS, packaged_rules, read_rule
from linnaeus.pretrained._weights import offer_of


def offer(*names, size=2):
    """Return an offer of vectors under these names."""
    return offer_of({name: torch.ones(size) for name in names})


def apply(rule, given, target=()):
    """Apply a rule written as in YAML to an offer."""
    return read_rule(rule, "test").apply(given, dict.fromkeys(target, (2,)))


def test_a_prefix_is_a_prefix():
    """Renaming by the prefix norm. leaves norm1.weight and blocks.0.norm.weight alone."""
    named = apply(
        {"rename": {"prefix": "norm.", "to": "out."}},
        offer("norm.weight", "norm1.weight", "normx.weight", "blocks.0.norm.weight"),
    )
    assert set(named.weights) == {"out.weight", "norm1.weight", "normx.weight", "blocks.0.norm.weight"}


def test_a_pattern_matches_whole_names_only():
    """A pattern is never searched for inside a name."""
    rule = {"drop": {"match": r"norm\..*", "why": "test"}}
    left = apply(rule, offer("norm.weight", "blocks.0.norm.weight", "norm1.weight"))
    assert set(left.weights) == {"blocks.0.norm.weight", "norm1.weight"}
    assert left.left == {"norm.weight": "test"}


def test_renaming_captures():
    """What a pattern captures can be used in the new name."""
    rule = {"rename": {"match": r"stages\.(\d+)\.blocks\.(\d+)\.(.*)", "to": r"stages.\1.\2.\3"}}
    assert set(apply(rule, offer("stages.1.blocks.12.gamma")).weights) == {"stages.1.12.gamma"}


def test_renaming_two_to_one_is_a_conflict():
    """Two weights that would get the same name are told, not silently reduced to one."""
    named = apply({"rename": {"prefix": "a.", "to": ""}}, offer("w", "a.w"))
    assert named.conflicts == ("a.w and w would both become w",)


def test_what_the_model_has_is_never_left_out():
    """A leave rule does not touch a name that the model has a place for."""
    rule = {"drop": {"match": "pos_embed", "why": "test"}}
    assert "pos_embed" in apply(rule, offer("pos_embed"), target=["pos_embed"]).weights


def test_a_scale_without_what_it_scales_stays_to_be_reported():
    """LayerScale that can't be folded is not lost: it stays in the offer and ends among the unused."""
    rule = {"fold": {"scale": r"b\.gamma", "into": ["b.proj.weight"]}}
    assert set(apply(rule, offer("b.gamma")).weights) == {"b.gamma"}


@pytest.mark.parametrize(
    "rule",
    [
        {"remove": {"prefix": "x"}},
        {"drop": {"why": "neither"}},
        {"drop": {"why": "both", "prefix": "a", "match": "a"}},
        {"rename": {"match": "(", "to": ""}},
        {"rename": {"prefix": "a", "to": "b", "also": 1}},
    ],
)
def test_a_rule_that_is_none_is_refused(rule):
    """Unknown kinds, wrong arguments and broken patterns are ConfigErrors that say where."""
    with pytest.raises(ConfigError, match="rules of mine"):
        read_rule(rule, "rules of mine")


@pytest.mark.parametrize("name", RULE_SETS)
def test_packaged_rules_can_be_read(name):
    """Every packaged rule set has its file's name, rules, and names to be told by."""
    rules = packaged_rules(name)
    assert rules.name == name
    assert rules.rules
    assert rules.detect


def test_the_parts_of_the_recipe_claim_apart():
    """No claim of one part begins with a claim of the other, so nothing can be claimed twice."""
    first, second = packaged_recipe(STITCHED).sources
    assert not [a for a in first.claims for b in second.claims if a.startswith(b) or b.startswith(a)]
