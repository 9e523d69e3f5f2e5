"""The pages of the methods, by discovery: they name every option, and what they show is a recipe that plans."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from art_ext.host.manager import default_manager
from art_ext.host.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = {path.parent.name: path.read_text() for path in (ROOT / "plugins").glob("*/README.md")}
KINDS = {
    name: kind
    for name, kind in default_manager().catalogue.ingredients.items()
    if kind.__module__.partition(".")[0] in PAGES
}
WHOLE = re.compile(r"```yaml\n(schema.*?)```", re.DOTALL)
USED = {path.name: {named.name for named in load_recipe(path).use} for path in ROOT.glob("recipes/digits/*.yaml")}
PARTS = {name for name, kind in KINDS.items() if kind.__module__.startswith("art_ext_tricks")} - {"bag", "smooth"}
"""Tricks without a recipe of their own: they are parts of recipes of other methods."""
RECIPES = [(name, block) for name, page in sorted(PAGES.items()) for block in WHOLE.findall(page)]


def test_each_plugin_with_ingredients_has_a_page_with_a_recipe_or_a_part_of_one():
    packages = {kind.__module__.partition(".")[0] for kind in KINDS.values()}
    assert len(packages) >= 9
    assert all("```yaml\n" in PAGES[package] for package in packages)
    assert len(RECIPES) >= 6


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_page_names_each_option(name):
    page = PAGES[KINDS[name].__module__.partition(".")[0]]
    assert not [option for option in (name, *KINDS[name].model_fields) if not re.search(rf"\b{option}\b", page)]


@pytest.mark.parametrize(("name", "block"), RECIPES, ids=[name for name, _ in RECIPES])
def test_the_recipe_of_a_page_plans_as_the_one_on_board(name, block, tmp_path):
    (tmp_path / "recipe.yaml").write_text(block)
    shown = load_recipe(tmp_path / "recipe.yaml")
    board = load_recipe(f"digits/{shown.name}")
    facts = shown.assumed_facts()
    assert shown.plan(facts).describe() == board.plan(facts).describe()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_recipes_that_a_page_names_are_there(name):
    for path in re.findall(r"recipes/(?:digits|papers)/\w+\.yaml", PAGES[name]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", sorted(KINDS.keys() - PARTS))
def test_the_page_names_a_recipe_on_board_with_the_method(name):
    page = PAGES[KINDS[name].__module__.partition(".")[0]]
    named = set(re.findall(r"\b(\w+\.yaml)`", page))
    assert named <= {path.name for path in ROOT.glob("recipes/*/*.yaml")}
    assert any(name in USED[recipe] for recipe in named & USED.keys())
