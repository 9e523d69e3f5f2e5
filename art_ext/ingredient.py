"""The base of all ingredients: one declaration that is config, documentation and behaviour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from art_ext.errors import ConfigError, unknown
from art_ext.parts.ranges import Uniform

if TYPE_CHECKING:
    from torch import nn

    from art_ext.plan import Plan

_FRACTION = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*/\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


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


def parse_number(value: Any) -> Any:
    """Turns `8/255` and `5e-4` (text, in YAML) into floats; never evaluates code.

    Anything that is not such a text is returned as it is, for the next validator to judge.

    Raises:
        ValueError: on text that is no number or fraction, and on a division by zero.
    """
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    if not isinstance(value, str):
        return value
    fraction = _FRACTION.fullmatch(value)
    try:
        if fraction is None:
            return float(value)
        return float(fraction[1]) / float(fraction[2])
    except ZeroDivisionError:
        raise ValueError(f"{value!r} divides by zero") from None
    except ValueError:
        raise ValueError(f"{value!r} is not a number; write 0.03, 5e-4 or 8/255") from None


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


Number = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]
Radius = Annotated[Positive | Uniform, BeforeValidator(parse_range)]
"""An attack radius in clip-value units: a positive number, or a `Uniform` to draw it from."""


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
    adaptive: ClassVar[tuple[str, ...]] = ()
    """Names of attacks that someone who knows it would run, besides those whose entries say that they inform on it."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError("; ".join(explain(error, type(self).name, type(self)))) from None

    def apply(self, plan: Plan) -> Plan:
        """Returns the plan with this ingredient's parts in it."""
        raise TypeError(f"ingredient {self.name!r} does not define apply(plan)")

    def cannot_continue(self, model: nn.Module) -> str:
        """Why it cannot train further what was trained without it: the end of a sentence; "" where it can.

        It is asked of a network whose weights know the task already, before the surgery of any ingredient.
        """
        return ""


def explain(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """One line a problem, each naming the field as `prefix.field` and suggesting near names."""
    lines: dict[str, None] = {}
    items = error.errors()
    for item in items:
        if item["type"] == "dataclass_type" and any(i["loc"][:1] == item["loc"][:1] and i is not item for i in items):
            continue  # the range that a field takes beside a number: a wrong number is no wrong range
        place = [str(part) for part in item["loc"] if not _is_union_branch(part)]
        where = ".".join([prefix, *place]) if prefix else ".".join(place)
        message = item["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, place[:-1])
            lines[unknown(f"option of {prefix or 'the recipe'}", ".".join(place), fields)] = None
        elif item["type"] == "missing":
            lines[f"{where} is missing"] = None
        else:
            lines[f"{where}: {message}, got {_short(item['input'])}"] = None
    return list(lines)


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part.startswith(("function-", "is-instance", "constrained-")) or "[" in part)


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
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
