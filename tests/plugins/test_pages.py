"""The page of each plugin names the recipes on board that train with its methods."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from art_ext.host.recipe import load_recipe

ROOT = Path(__file__).parents[2]
POINTS = [point for point in entry_points(group="art_ext") if point.dist and point.dist.name == "art_ext"]
USED = {path.name: {named.name for named in load_recipe(path).use} for path in ROOT.glob("recipes/digits/*.yaml")}
TRICKS = {"bag", "smooth"}
"""Of the tricks, those whose own recipes are on board: the others are parts of recipes of other methods."""


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_method_has_a_recipe_that_its_page_names(point):
    plugin = point.load()
    page = (ROOT / "plugins" / point.module / "README.md").read_text()
    named = set(re.findall(r"`(?:recipes/digits/)?(\w+\.yaml)`", page))
    assert named <= USED.keys()
    kinds = {kind.name for kind in getattr(plugin, "art_ext_ingredients", list)()}
    if point.name == "tricks":
        kinds &= TRICKS
    for kind in kinds:
        assert any(kind in USED[name] for name in named), f"the page of {point.name} names no recipe with {kind}"
