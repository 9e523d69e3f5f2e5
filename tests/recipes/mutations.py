"""Recipes with one thing wrong, the same ones each time: for a number, the text and what a message must name."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from art_ext.host.document import parse

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "digits").glob("*.yaml"))
VALUES: list[Any] = [
    None, True, False, 0, -1, 10**400, -(10**30), 1e308, float("nan"), float("inf"), -float("inf"), 0.5, "", " ", "x",
    "8/0", "1e999", "8/255/3", "\u202e", "ünïcödé-名前", "😀" * 50, "a" * 5000, "*", "${HOME}", "../../etc",
    [], {}, [[]], [{}], {"": {}}, [None], [1, 2, 3], {"x": 1}, {"uniform": [1]}, {"uniform": [1, 0]},
    {"uniform": {"a": 1}}, {"a": {"b": {"c": {"d": [1]}}}}, [[[[[[1]]]]]], "2024-01-01", "on", "1:30", "0x10", "0o7",
]  # fmt: skip

BITS = [
    *("\t", ":", "- ", "{", "]", "'", '"', "&a ", "*a", "!!set ", "%", "|", ">", "#", "---\n", "é", ""),
    *("\x07", "\u2028", "\ufeff"),
]

Place = tuple[Any, ...]
Mutation = Callable[[random.Random, dict[str, Any]], tuple[str, list[str]]]


def mutated(number: int) -> tuple[str, list[str]]:
    """The YAML text of mutation `number`, and words of which a complaint must have one (none: any will do)."""
    rng = random.Random(number)
    file = rng.choice(RECIPES)
    recipe = parse(file.read_text(), file.name).data
    return rng.choice(MUTATIONS)(rng, copy.deepcopy(recipe))


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where the values of a recipe stand, those of lists and mappings included."""
    if place:
        yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*place, key))


def parent(recipe: Any, place: Place) -> Any:
    for key in place[:-1]:
        recipe = recipe[key]
    return recipe


def words(place: Place) -> list[str]:
    """The keys on the way to a value, and what messages call the entries of a list."""
    called = {"use": ["ingredient"], "evaluate": ["attack", "suite"]}
    return [word for key in place if isinstance(key, str) for word in (key, *called.get(key, []))]


def written(recipe: Any) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def pick(rng: random.Random, recipe: dict[str, Any], keyed: bool = False) -> Place:
    return rng.choice([place for place in places(recipe) if not keyed or isinstance(place[-1], str)])


def delete(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    place = pick(rng, recipe)
    del parent(recipe, place)[place[-1]]
    return written(recipe), [*words(place), "threat"]


def replace(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    place = pick(rng, recipe)
    parent(recipe, place)[place[-1]] = rng.choice(VALUES)
    return written(recipe), [*words(place), "threat"]


def rename(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    place = pick(rng, recipe, keyed=True)
    here, old = parent(recipe, place), place[-1]
    near = [f"{old}x", old[:-1] or "q", old.upper(), f"{old.replace('_', '-')}-"]
    new = rng.choice([*near, "ключ", "a.b", "0", "__class__"])
    changed = {new if key == old else key: value for key, value in here.items()}
    here.clear()
    here.update(changed)
    return written(recipe), [*words(place), new]


def add(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    inside = [place for place in places(recipe) if isinstance(parent(recipe, (*place, 0)), dict)]
    place = rng.choice([(), *inside])
    name = rng.choice(["extra", "lr_", "eps2", "self", "cls", "__init__", "model_config", "名", "a" * 300])
    parent(recipe, (*place, 0))[name] = rng.choice(VALUES)
    return written(recipe), [*words(place), name[:40]]


def double(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    lines = written(recipe).splitlines()
    line = rng.choice([line for line in lines if ":" in line])
    lines.insert(lines.index(line) + 1, line)
    return "\n".join(lines) + "\n", [line.split(":")[0].strip(" -'")]


def repeat(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    section = rng.choice([key for key in ("use", "evaluate") if recipe.get(key)])
    entry = rng.choice(recipe[section])
    recipe[section].extend([entry] * rng.choice([1, 3]))
    return written(recipe), [next(iter(entry)) if isinstance(entry, dict) else entry]


def wrap(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    place = pick(rng, recipe)
    here = parent(recipe, place)
    for _ in range(rng.choice([1, 3, 40])):
        here[place[-1]] = rng.choice([[here[place[-1]]], {"x": here[place[-1]]}])
    return written(recipe), [*words(place), "nested", "threat"]


def scramble(rng: random.Random, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    """Damage to the text itself: any line may be named."""
    text = written(recipe)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text))
        bit = rng.choice(BITS)
        text = text[:at] + bit + text[at + rng.randint(0, 3) :]
    return text, []


MUTATIONS: list[Mutation] = [delete, replace, replace, replace, rename, add, double, repeat, wrap, scramble]
