"""A sweep: the values of several settings, each with each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from art_ext.errors import ConfigError

__all__ = ["label_of", "parse", "points"]

MOST = 200


def parse(texts: Sequence[str]) -> dict[str, list[str]]:
    """`pc_lc.xi=0.9,0.995` as a key and its values; commas inside of brackets belong to a value.

    Raises:
        ConfigError: for a text without values, and for a key that comes twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, sign, rest = text.partition("=")
        values = _split(rest)
        if not sign or not key.strip() or not all(values):
            raise ConfigError(f"--sweep {text}: no list of values; write --sweep pc_lc.xi=0.9,0.995")
        if key in found:
            raise ConfigError(f"--sweep {key} is given twice; put all its values into one list")
        if len(set(values)) < len(values):
            raise ConfigError(f"--sweep {text}: a value comes twice; leave it out once")
        found[key.strip()] = values
    return found


def points(settings: dict[str, list[str]]) -> list[tuple[str, ...]]:
    """Every combination, as overrides of a recipe.

    Raises:
        ConfigError: for more than 200.
    """
    made = [
        tuple(f"{key}={value}" for key, value in zip(settings, values, strict=True))
        for values in itertools.product(*settings.values())
    ]
    if len(made) > MOST:
        raise ConfigError(f"--sweep asks for {len(made)} runs; {MOST} are the most, leave values out")
    return made


def label_of(point: Sequence[str]) -> str:
    """A folder's name for a combination: `pc_lc.xi=0.9`."""
    return re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", ",".join(point)).strip("_")[:120]


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for c in text:
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]
