"""Recipes as plain data: what is written into files, and what a tracker gets as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator

from art_ext.ingredient import Ingredient
from art_ext.parts.ranges import OfEps, Uniform

__all__ = ["Named", "NamedInYaml", "as_use", "fields", "flatten", "kind", "named", "plain", "readable"]


class Named(NamedTuple):
    """Something by name with options, written `NAME` or `NAME: {OPTION: VALUE}`."""

    name: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


def named(value: Any) -> Named:
    """Reads `NAME` or `NAME: {OPTION: VALUE}`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, Named):
        return value
    if isinstance(value, str):
        return Named(value, {})
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if options is None or isinstance(options, Mapping):
            return Named(name, dict(options or {}))
        raise ValueError(f"the options of {name} are written {name}: {{OPTION: VALUE}}")
    raise ValueError("this is written NAME or NAME: {OPTION: VALUE}")


NamedInYaml = Annotated[Named, BeforeValidator(named)]


def readable(entries: Any) -> list[tuple[int, Named]]:
    """The entries of a `use:` or `evaluate:` that are written well; the others are reported elsewhere."""
    found = []
    for index, entry in enumerate(entries) if isinstance(entries, list) else ():
        try:
            found.append((index, named(entry)))
        except ValueError:
            continue
    return found


def as_use(ingredients: Iterable[Ingredient]) -> list[dict[str, Any]]:
    """Ingredients as a `use:` of plain data, with every default spelled out."""
    return [{item.name: fields(item)} for item in ingredients]


def flatten(resolved: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """A resolved recipe as a tracker's parameters: `pc_lc.xi`, `train.epochs`, `evaluate.pgd.steps`.

    What is not set (null) is left out; lists and ranges become text.
    """
    flat: dict[str, str | int | float | bool] = {}

    def put(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and "uniform" not in value:
            for key, inner in value.items():
                put(f"{prefix}.{key}", inner)
        elif isinstance(value, Mapping):
            low, high = value["uniform"]
            flat[prefix] = f"uniform [{low}, {high}] per {value.get('per', 'example')}"
        elif isinstance(value, list | tuple):
            flat[prefix] = ", ".join(map(str, value))
        elif value is not None:
            flat[prefix] = value

    for section, value in resolved.items():
        if section in ("use", "evaluate"):
            names = [name for item in value for name in item]
            put(section, names)
            for index, item in enumerate(value):
                for name, options in item.items():
                    again = names[:index].count(name)
                    label = name if again == 0 else f"{name}_{again + 1}"
                    for key, inner in options.items():
                        put(f"{label}.{key}" if section == "use" else f"evaluate.{label}.{key}", inner)
        elif section == "beside":
            for name, use in value.items():
                put(f"beside.{name}", [ingredient for item in use for ingredient in item])
        elif section == "train":
            for key, inner in value.items():
                if key in ("optimizer", "schedule"):
                    for name, options in inner.items():
                        put(f"train.{key}", name)
                        put(f"train.{key}", options)
                else:
                    put(f"train.{key}", inner)
        else:
            put(section, value)
    return flat


def fields(model: BaseModel) -> dict[str, Any]:
    """A model's declared fields as plain data."""
    written: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value, key = getattr(model, name), info.alias or name
        try:
            written[key] = plain(value)
        except TypeError:  # a plugin's own type: pydantic knows how to write it
            written[key] = model.model_dump(mode="json", include={name})[name]
    return written


def plain(value: Any) -> Any:
    """A value as YAML writes it.

    Raises:
        TypeError: for anything that is no plain data.
    """
    if isinstance(value, Uniform):
        return {"uniform": [value.low, value.high], "per": value.per}
    if isinstance(value, OfEps):
        return f"{value.share!r} eps"
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Named):
        return {value.name: plain(value.options)}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return fields(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


def kind(value: Any) -> str:
    """What a value of YAML is, in a word."""
    return {dict: "mapping", list: "list", str: "text", bool: "truth value"}.get(type(value), "number")
