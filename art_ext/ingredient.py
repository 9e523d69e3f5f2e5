"""The base of all ingredients: one declaration that is config, documentation and behaviour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from art_ext.errors import ConfigError, did_you_mean, unknown
from art_ext.parts.ranges import OfEps, Uniform

if TYPE_CHECKING:
    from torch import nn

    from art_ext.plan import Plan

_FRACTION = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*/\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
_OF_EPS = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)?\s*eps\s*(?:/\s*([1-9][0-9]*(?:\.[0-9]*)?))?\s*")


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    venue: str
    year: int
    url: str = ""

    def __str__(self) -> str:
        return f"{self.authors}: {self.title}, {self.venue} {self.year}"


class _NoNumber(ValueError):
    """What is no number; where something else may stand in its place, the message says both."""


def parse_number(value: Any) -> Any:
    """Turns `8/255` and `5e-4` (text, in YAML) into floats; never evaluates code.

    Anything that is not such a text is returned as it is, for the next validator to judge.

    Raises:
        ValueError: on text that is no number or fraction, and on a division by zero.
    """
    if isinstance(value, bool):
        raise _NoNumber("a number is needed, not true or false")
    if not isinstance(value, str):
        return value
    fraction = _FRACTION.fullmatch(value)
    try:
        if fraction is None:
            return float(value)
        return float(fraction[1]) / float(fraction[2])
    except ZeroDivisionError:
        raise _NoNumber(f"{value!r} divides by zero") from None
    except ValueError:
        raise _NoNumber(f"{value!r} is not a number; write 0.03, 5e-4 or 8/255") from None


def parse_range(value: Any) -> Any:
    """Turns `{uniform: [low, high]}` into a `Uniform`; leaves all else to `parse_number`."""
    if not isinstance(value, Mapping):
        return value if isinstance(value, Uniform) else parse_number(value)
    known = {"uniform", "per"}
    for key in value:
        if key not in known:
            raise ValueError(unknown("kind of range", str(key), known))
    bounds = value.get("uniform")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError("a range is written {uniform: [low, high]}")
    low, high = (parse_number(bound) for bound in bounds)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ValueError("both ends of a range are numbers")
    return Uniform(float(low), float(high), per=value.get("per", "example"))


def parse_step(value: Any) -> Any:
    """Turns `eps/10` and `0.25 eps` into an `OfEps`; leaves all else to `parse_number`."""
    found = _OF_EPS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value if isinstance(value, OfEps) else parse_number(value)
    return OfEps(float(found[1] or 1) / float(found[2] or 1))


Number = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]
Radius = Annotated[Positive | Uniform, BeforeValidator(parse_range)]
"""An attack radius in clip-value units: a positive number, or a `Uniform` to draw it from."""
StepSize = Annotated[Positive | OfEps, BeforeValidator(parse_step)]
"""The length of an attack's steps: a positive number in clip-value units, or an `OfEps`, written `eps/10`."""


class Ingredient(BaseModel):
    """A typed, immutable value with one verb: `apply(plan) -> plan`.

    Subclasses declare `name` (as recipes spell it), `paper`, their options as fields with the
    paper's defaults, and `apply`. Unknown or impossible options raise `ConfigError` in one line
    when the value is made, before any work starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str]
    paper: ClassVar[Paper]
    trial: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options under which two steps on a tiny network show its effect; contract tests use them."""
    adaptive: ClassVar[tuple[str | tuple[str, Mapping[str, Any]], ...]] = ()
    """Attacks that someone who knows it would run, by name or as (name, options), besides those whose entries say
    that they inform on it. A suite may lower steps and restarts, and leaves out what is too dear for it."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError("; ".join(explain(error, type(self).name, type(self), fields))) from None

    def apply(self, plan: Plan) -> Plan:
        """Returns the plan with this ingredient's parts in it."""
        raise TypeError(f"ingredient {self.name!r} does not define apply(plan)")

    def changed(self, *options: str) -> list[str]:
        """Which of its options are not at their defaults, so that somebody means something by them."""
        known = type(self).model_fields
        return [option for option in options if getattr(self, option) != known[option].default]

    def cannot_continue(self, model: nn.Module) -> str:
        """Why it cannot train further what was trained without it: the end of a sentence; "" where it can.

        It is asked of a network whose weights know the task already, before the surgery of any ingredient.
        """
        return ""


Complaint = Mapping[str, Any]
"""One of pydantic's errors, as `ValidationError.errors()` gives them."""


def explain(error: ValidationError, prefix: str, model: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """One line a problem with the data, each naming the field as `prefix.field` and suggesting near names."""
    found = complaints(error, data)
    return list(dict.fromkeys(problem(items, place, prefix, model) for place, items in found))


def complaints(error: ValidationError, data: Any) -> list[tuple[tuple[int | str, ...], list[Complaint]]]:
    """Each place of the data that something is wrong with, and what: one error, or one for each branch of a union."""
    found: dict[tuple[int | str, ...], list[Complaint]] = {}
    for item in error.errors(include_url=False):
        place, inner = item["loc"], data
        for depth, part in enumerate(item["loc"]):
            if item["type"] == "missing":
                break
            try:
                inner = inner[part]
            except (KeyError, IndexError, TypeError):  # the name of a union's branch
                place = item["loc"][:depth]
                break
        found.setdefault(place, []).append(cast(Complaint, item))
    # a sequence is too short for want of the items that are wrong themselves
    inside = {place[:depth] for place in found for depth in range(len(place))}
    return [(at, items) for at, items in found.items() if at not in inside or items[0]["type"] != "too_short"]


def problem(items: Sequence[Complaint], place: Sequence[int | str], prefix: str, model: type[BaseModel]) -> str:
    """What is wrong at one place, in one line."""
    parts = [str(part) for part in place]
    where = ".".join([prefix, *parts]) if prefix else ".".join(parts)
    kind = items[0]["type"]
    if kind == "extra_forbidden":
        return unknown(f"option of {prefix or 'the recipe'}", ".".join(parts), _fields_at(model, parts[:-1]))
    if kind == "missing":
        return f"{where} is missing"
    # a range that a field takes beside a number: a wrong number is no wrong range
    told = [item for item in items if item["type"] != "dataclass_type"] or items
    literal = [item for item in told if item["type"] == "literal_error"]
    wanted = _said(told[0]) if len(told) == 1 else f"input should be {_any_of(literal, told)}"
    words = [word for item in literal for word in _WORD.findall(item["ctx"]["expected"])]
    value = told[0]["input"]
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return f"{where}: {wanted}, got {_short(value)}" + (f"; {hint}" if hint.startswith("did you") else "")


_WORD = re.compile(r"'([^']*)'")


def _any_of(literal: Sequence[Complaint], items: Sequence[Complaint]) -> str:
    """What would do: the words, then the kinds of values."""
    expected: list[str] = [item["ctx"]["expected"] for item in literal]
    clauses = [", ".join([*(text.replace(" or ", ", ") for text in expected[:-1]), expected[-1]])] if expected else []
    for item in items:
        if isinstance(item.get("ctx", {}).get("error"), _NoNumber):
            clauses.append("a number such as 0.03, 5e-4 or 8/255")
        elif item["type"] != "literal_error":
            clauses.append(_said(item).removeprefix("input should be ").replace("a valid boolean", "true or false"))
    return " or ".join(dict.fromkeys(clauses))


def _said(item: Complaint) -> str:
    message: str = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return message[0].lower() + message[1:]


Options = TypeVar("Options", bound=BaseModel)


def checked(options: type[Options], prefix: str, /, **fields: Any) -> Options:
    """The options as a value.

    Raises:
        ConfigError: in one line, naming each field as `prefix.field`.
    """
    try:
        return options(**fields)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(error, prefix, options, fields))) from None


def _fields_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(part)
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
