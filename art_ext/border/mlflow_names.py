"""Names as MLflow takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["NAME_LENGTH", "clean_name", "cleaned_keys"]

NAME_LENGTH = 250


def clean_name(name: str, taken: frozenset[str] | set[str] = frozenset()) -> str:
    """A name in MLflow's alphabet: letters, digits, `_ - . space /`, and no empty or dotted path part.

    Args:
        taken: names in use; a clash gets a number.
    """
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. /" else "_" for c in name)
    parts = [part for part in kept.split("/") if part not in ("", ".", "..")]
    cleaned = "/".join(parts)[:NAME_LENGTH].rstrip("/") or "_"
    free, number = cleaned, 2
    while free in taken:
        free = f"{cleaned[: NAME_LENGTH - 5]}_{number}"
        number += 1
    return free


def cleaned_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same mapping with clean names; those that are clean already keep theirs."""
    exact = {name for name in values if clean_name(name) == name}
    result = {name: values[name] for name in values if name in exact}
    for name in sorted(set(values) - exact):
        result[clean_name(name, set(result))] = values[name]
    return result
