"""`--set KEY=VALUE`: settings changed from outside the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

from art_ext.errors import ConfigError, unknown
from art_ext.host import document
from art_ext.host.manager import one_line
from art_ext.host.places import Marks, Place
from art_ext.host.plain import kind, readable

__all__ = ["override"]


def override(data: dict[str, Any], text: str, marks: Marks, settings: Sequence[str]) -> Iterator[tuple[Place, str]]:
    """Applies one `KEY=VALUE`; what is wrong with it is given back.

    Args:
        settings: the sections and settings that a recipe has.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    place: Place = ("", one_line(key))
    marks.overrides[place] = one_line(key)
    parts = key.split(".")
    if not equals or not all(parts):
        yield place, "an override is written KEY=VALUE, as in train.epochs=3 or pc_lc.xi=0.9"
        return
    try:
        new = document.parse(value, "value").data
    except ConfigError as error:
        yield place, str(error)
        return
    used = [named.name for _, named in readable(data.get("use"))]
    if parts[0] not in settings:
        if parts[0] not in used:
            yield place, unknown("setting or ingredient in use", parts[0], [*settings, *used])
            return
        parts = ["use", *parts]
    try:
        target = _put(data, parts, new)
    except ValueError as error:
        yield place, str(error)
        return
    marks.override(target, one_line(key))


def _put(data: dict[str, Any], parts: list[str], new: Any) -> Place:
    """Sets a value by its dotted name, creating mappings on the way.

    Raises:
        ValueError: if the way is blocked by something that is no mapping.
    """
    here, place = data, cast(Place, ())
    for part, then in itertools.pairwise(parts):
        inner = here.get(part)
        place = (*place, part)
        if isinstance(inner, list):
            index = _entry(inner, then, part)
            if not isinstance(inner[index], dict):
                inner[index] = {then: {}}
            here, place = inner[index], (*place, index)
            continue
        if inner is None or inner == then:  # an optimizer by its bare name gets options
            inner = here[part] = {} if inner is None else {then: {}}
        dotted = ".".join(map(str, place))
        if not isinstance(inner, dict):
            raise ValueError(f"{dotted} is a {kind(inner)} and has no {then}")
        if place in _CHOICES and len(inner) == 1 and then not in inner and isinstance(next(iter(inner.values())), dict):
            chosen = next(iter(inner))
            raise ValueError(f"{dotted} is {chosen}; write {dotted}.{chosen}.{then}=..., or {dotted}={{{then}: {{}}}}")
        here = inner
    here[parts[-1]] = new
    return (*place, parts[-1])


_CHOICES: tuple[Place, ...] = (("train", "optimizer"), ("train", "schedule"))


def _entry(entries: list[Any], name: str, part: str) -> int:
    """The index of the entry called `name` in `use:` or `evaluate:`."""
    named = readable(entries)
    found = [index for index, entry in named if entry.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{part} lists {name} more than once; change it in the file")
    raise ValueError(unknown(f"entry of {part}", name, [entry.name for _, entry in named]))
