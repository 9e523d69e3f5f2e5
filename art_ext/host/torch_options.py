"""The options of optimizers and schedules, as torch's own signatures have them, checked before any work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from art_ext.errors import unknown
from art_ext.host.manager import one_line
from art_ext.host.plain import Named, plain
from art_ext.ingredient import parse_number

__all__ = ["as_value_error", "checked_options", "completed", "known_maker", "parameters", "surely_fine"]

_HOW_TO_RUN = ("foreach", "fused", "capturable", "differentiable", "maximize")
"""Options of torch's optimizers that do not change a recipe's result, or must not be changed by one."""


def known_maker(kind: str, name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The maker of that name.

    Raises:
        ValueError: naming near ones, as all of this module, for pydantic to collect.
    """
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]


def parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options that a recipe may set."""
    found = inspect.signature(maker).parameters
    return {name: found[name] for name in found if name != "params" and name not in _HOW_TO_RUN}


def checked_options(named: Named, maker: Callable[..., Any]) -> dict[str, Any]:
    """The options as the kinds of things that they are; none unknown, none missing."""
    takes = parameters(maker)
    for key in named.options:
        if key not in takes:
            raise ValueError(unknown(f"option of {named.name}", key, takes))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in named.options:
            raise ValueError(f"{named.name} needs {key}; write {named.name}: {{{key}: ...}}")
    return {key: _like(f"{named.name}.{key}", value, takes[key].default) for key, value in named.options.items()}


def _like(name: str, value: Any, default: Any) -> Any:
    """The value as the kind of thing that its default is: a truth value, a number or a list of numbers."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {value!r}")
        return value
    if isinstance(value, list | tuple):
        if isinstance(default, int | float):
            raise ValueError(f"{name} is a number, not a list")
        return [_number(name, item) for item in value]
    if isinstance(default, tuple) or default is inspect.Parameter.empty:
        raise ValueError(f"{name} is a list of numbers, not {value!r}")
    return value if value is None and default is None else _number(name, value)


def _number(name: str, value: Any) -> int | float:
    try:
        number = parse_number(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(number, int | float) or not abs(number) < math.inf:
        raise ValueError(f"{name} is a number, not {value!r}")
    return number


def surely_fine(option: Any) -> bool:
    """Whether every optimizer takes the value: a number from 0, a pair of betas, or a switch left off."""
    if isinstance(option, list):
        return len(option) == 2 and all(0 <= item < 1 for item in option)
    return option is None or (option >= 0 and option is not True)


def completed(named: Named, makers: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """The options with those that were left out at their defaults."""
    defaults = {name: p.default for name, p in parameters(makers[named.name]).items() if p.default is not p.empty}
    return cast(dict[str, Any], plain({**defaults, **named.options}))


def as_value_error(make: Callable[[], Any]) -> Any:
    """What `make` gives; whatever it raises becomes a ValueError of one line."""
    try:
        return make()
    except Exception as error:  # torch and arithmetic raise many kinds; each is about these options
        raise ValueError(one_line(str(error))) from None
