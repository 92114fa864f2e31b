"""Recipes: what can be written in one, and what is refused."""

import pytest
import torch
import yaml
from torch import nn

from linnaeus.errors import ConfigError
from linnaeus.pretrained import RECIPES, read_recipe, stitch

GOOD = {"sources": {"a": {"checkpoint": "a.pth", "claims": ["x."]}}}


def written(tmp_path, recipe):
    """Write a recipe and return its path."""
    path = tmp_path / "mine.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    return str(path)


def changed(**source):
    """Return the good recipe with another source."""
    return {"sources": {"a": {"checkpoint": "a.pth", **source}}}


@pytest.mark.parametrize("name", RECIPES)
def test_packaged_recipes_are_read_by_name(name):
    """Each has sources with claims, and a joint."""
    recipe = read_recipe(name)
    assert recipe.name == name
    assert all(source.claims for source in recipe.sources)
    assert recipe.joints


def test_a_recipe_of_ones_own_is_read(tmp_path):
    """Every key has its meaning."""
    recipe = read_recipe(
        written(
            tmp_path,
            {
                "name": "mine",
                "about": "a test",
                "model": {"NAME": "mFormer_nano"},
                "min_coverage": 0.5,
                "sources": {
                    "a": {
                        "checkpoint": "a.pth",
                        "rules": ["convnext", {"drop": {"prefix": "y.", "why": "not wanted"}}],
                        "container": "weights.a",
                        "averaged": True,
                    }
                },
                "joints": [{"a": {"name": "x.weight", "dim": 1}}],
            },
        )
    )
    (source,) = recipe.sources
    assert (recipe.name, recipe.min_coverage, recipe.model) == ("mine", 0.5, {"NAME": "mFormer_nano"})
    assert (source.container, source.averaged, source.claims) == ("weights.a", True, None)
    assert [rules.name for rules in source.rules] == ["convnext"]
    assert source.own_rules is not None
    assert (recipe.joints[0]["a"].name, recipe.joints[0]["a"].dim) == ("x.weight", 1)


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ("[1, 2", "recipe"),
        ("just text", "mine.yaml"),
        ({"sources": {}}, "sources"),
        ({**GOOD, "source": {}}, "source"),
        (changed(claim=["x."]), "sources.a.claim"),
        (changed(claims="x."), "claims"),
        (changed(claims=[""]), "claims"),
        (changed(rules=["nonsense"]), "rules"),
        (changed(rules=[{"rename": {"name": "{a}", "to": "{b}"}}]), "rename"),
        (changed(rules=[{"split": {"name": "{a}", "into": ["x{"]}}]), "split"),
        (changed(rules=[{"transpose": {"name": "{a}", "dims": [0, 2]}}]), "transpose"),
        (changed(rules=[{"layers": {"name": "a", "to": "b.{i}"}}]), "layers"),
        ({"sources": {"a": {"rules": "convnext"}}}, "sources.a"),
        ({**GOOD, "joints": [{"b": {"name": "x", "dim": 0}}]}, "joints"),
        ({**GOOD, "joints": [{"a": {"dim": 0}}]}, "joints"),
        ({**GOOD, "min_coverage": 7}, "min_coverage"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_by_the_key(recipe, field, tmp_path):
    """Each mistake is a ConfigError that says where it is."""
    with pytest.raises(ConfigError) as caught:
        read_recipe(written(tmp_path, recipe))
    assert field in caught.value.field


def test_a_recipe_that_is_not_there_is_refused_with_the_nearest():
    """A mistyped name of a packaged recipe gets a hint."""
    with pytest.raises(ConfigError) as caught:
        read_recipe("stitched_convnext_ropevitt")
    assert caught.value.nearest == "stitched_convnext_ropevit"


def test_a_recipe_whose_sources_are_not_named_is_refused():
    """The packaged recipe takes its checkpoints from the config, and says which keys are missing."""
    with pytest.raises(ConfigError, match="PRETRAINED_CONVNEXT"):
        stitch("stitched_convnext_ropevit", nn.Linear(2, 2))


def test_absolute_paths_need_no_config(tmp_path):
    """A recipe of absolute paths is stitched without any config."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    model = nn.Linear(2, 2)
    report = stitch({"sources": {"a": {"checkpoint": str(tmp_path / "a.pth")}}}, model)
    assert report.coverage == 1.0
