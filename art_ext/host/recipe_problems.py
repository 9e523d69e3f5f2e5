"""What is wrong with a recipe, problem by problem, each at its place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

from art_ext.data.augment import augmentation_from
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError, unknown
from art_ext.host.manager import CORE, Catalogue, create_plugin_manager, default_manager, installed_plugins, one_line
from art_ext.host.places import Place
from art_ext.host.plain import Named, readable
from art_ext.host.sections import SECTIONS, DataSection
from art_ext.ingredient import (
    Complaint,
    Ingredient,
    complaints,
    problem,
)
from art_ext.secrets import masked

__all__ = ["catalogue_of", "check_data", "check_evaluate", "check_parts", "check_use", "complaints_of_recipe"]


def complaints_of_recipe(
    error: ValidationError, data: Mapping[str, Any], model: type[BaseModel]
) -> Iterator[tuple[Place, str]]:
    """What pydantic has against a recipe, as the model of recipes reads it."""
    for place, items in complaints(error, data):
        section, kind = str(place[0]) if place else "", items[0]["type"]
        if section in SECTIONS and len(items[0]["loc"]) > 1:
            yield place, _line(items, place[1:], section, SECTIONS[section])
        elif kind == "missing":
            example = {"schema": "schema: 1", "model": "model: {timm: NAME}", "data": "data: {name: digits}"}
            yield place, f"{section} is missing; write {example.get(section, f'{section}: ...')}"
        elif kind == "extra_forbidden":
            yield place, unknown("section", section, settings_of(model))
        else:
            yield place, _line(items, place, "", model)


def settings_of(model: type[BaseModel]) -> list[str]:
    """The names of a model's fields, as recipes have them."""
    return [info.alias or name for name, info in model.model_fields.items()]


_WORDS = {
    "model_type": "a mapping is needed, KEY: VALUE",
    "dict_type": "a mapping is needed, KEY: VALUE",
    "tuple_type": "a list is needed, [A, B]",
    "list_type": "a list is needed, [A, B]",
    "string_type": "text is needed",
    "bool_type": "true or false is needed",
}


def _line(items: Sequence[Complaint], place: Place, prefix: str, model: type[BaseModel]) -> str:
    """What is wrong at one place, in the words of recipes."""
    first, alone = items[0], len(items) == 1
    told = [{**first, "msg": _WORDS.get(first["type"], first["msg"])}] if alone else items
    line = problem(told, place, prefix, model).removeprefix(": ")
    known = isinstance(first["input"], Mapping) or repr(first["input"]) in first["msg"]
    if alone and first["type"] == "value_error" and known:
        line = line.rpartition(", got ")[0]  # the message has said so already
    return one_line(masked(line))


def check_parts(
    data: Mapping[str, Any], catalogue: Catalogue | None, found: list[Catalogue]
) -> list[tuple[Place, str]]:
    """What a recipe asks of plugins that they do not have; the catalogue that was asked goes to `found`."""
    problems = list(_check_plugins(data.get("plugins"), catalogue))
    if problems:
        return problems
    names = data.get("plugins")
    offered = catalogue or catalogue_of(tuple(names) if _is_texts(names) else None)
    found.append(offered)
    if _is_texts(names):
        states = {info.name: info for info in offered.plugins}
        for index, name in enumerate(names):
            if states[name].state != "loaded":
                problems.append((("plugins", index), f"plugin {name} is {states[name].state}: {states[name].cause}"))
    problems += check_use(readable(data.get("use")), offered, [])
    beside = data.get("beside")
    for name, use in beside.items() if isinstance(beside, Mapping) else ():
        problems += check_use(readable(use), offered, [], ("beside", name))
    problems += check_evaluate(readable(data.get("evaluate")), offered, [])
    problems += check_data(data.get("data"), offered)
    model = data.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("name"), str) and model.get("timm") is None:
        problems += _ask(("model", "name"), lambda: offered.model(model["name"]))
    return problems


def _check_plugins(names: Any, catalogue: Catalogue | None) -> Iterator[tuple[Place, str]]:
    if not _is_texts(names):
        return
    known = installed_plugins() if catalogue is None else [info.name for info in catalogue.plugins]
    for index, name in enumerate(names):
        if name not in known:
            yield ("plugins", index), unknown("plugin", name, [name for name in known if name != CORE])


def check_use(
    use: Iterable[tuple[int, Named]], catalogue: Catalogue, made: list[Ingredient], where: Place = ("use",)
) -> Iterator[tuple[Place, str]]:
    seen: set[str] = set()
    for index, named in use:
        place: Place = (*where, index, named.name)
        if named.name in seen:
            yield place, f"{named.name} is listed twice; keep one"
            continue
        seen.add(named.name)
        try:
            cls = catalogue.ingredient(named.name)
        except ConfigError as error:
            yield place, str(error)
            continue
        problems = list(_check_options(place, named, cls))
        yield from problems
        if not problems:
            try:
                made.append(cls(**named.options))
            except (ConfigError, TypeError) as error:  # an ingredient with an __init__ of its own
                yield place, one_line(str(error))


def check_evaluate(
    evaluate: Iterable[tuple[int, Named]], catalogue: Catalogue, made: list[tuple[AttackEntry, BaseModel]]
) -> Iterator[tuple[Place, str]]:
    for index, named in evaluate:
        place: Place = ("evaluate", index, named.name)
        try:
            entry = catalogue.attack(named.name)
        except ConfigError as error:
            yield place, str(error)
            continue
        problems = list(_check_options(place, named, entry.options, "evaluate."))
        yield from problems
        if not problems:
            made.append((entry, entry.options.model_validate(named.options)))


def _check_options(place: Place, named: Named, model: type[BaseModel], prefix: str = "") -> Iterator[tuple[Place, str]]:
    """What pydantic has against the options, each problem at its own place."""
    blank = model.__new__(model)
    try:
        # not the class's own __init__: an ingredient's joins all problems into one text
        BaseModel.__init__(blank, **named.options)
    except ValidationError as error:
        for inner, items in complaints(error, named.options):
            yield (*place, *inner), _line(items, inner, prefix + named.name, model)


def check_data(data: Any, catalogue: Catalogue) -> Iterator[tuple[Place, str]]:
    if not isinstance(data, Mapping):
        return
    yield from _ask(("data", "augment"), lambda: augmentation_from(_mapping_or_none(data.get("augment"))))
    if not isinstance(data.get("name"), str):
        return
    unknown_name = list(_ask(("data", "name"), lambda: catalogue.dataset(data["name"])))
    yield from unknown_name
    if unknown_name:
        return
    entry = catalogue.dataset(data["name"])
    for key in DataSection.model_fields.keys() - {"name", "augment"}:
        if isinstance(data.get(key), str if key == "root" else int | float):
            yield from _ask(("data", key), functools.partial(entry.options, **{key: data[key]}))


def _ask(place: Place, question: Callable[[], object]) -> Iterator[tuple[Place, str]]:
    try:
        question()
    except ConfigError as error:
        yield place, one_line(str(error))


def _mapping_or_none(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _is_texts(value: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def catalogue_of(plugins: tuple[str, ...] | None) -> Catalogue:
    if plugins is None:
        return default_manager().catalogue
    return create_plugin_manager(only=plugins, asked_by="the recipe's plugins").catalogue
