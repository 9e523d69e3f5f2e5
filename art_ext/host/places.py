"""Where the values of a recipe were written, and how its problems say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from art_ext.errors import ConfigError

__all__ = ["Marks", "Place", "RecipeError"]

Place = tuple[str | int, ...]


class RecipeError(ConfigError):
    """All problems of a recipe, one line each.

    Attributes:
        lines: the problems, in the order of the file.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass
class Marks:
    """Where the values of a recipe were written."""

    shown: str
    lines: dict[Place, int] = field(default_factory=dict)
    overrides: dict[Place, str] = field(default_factory=dict)

    def lines_of(self, problems: Iterable[tuple[Place, str]]) -> list[str]:
        """The problems as lines, in the order of the file; overrides come last."""
        ordered = sorted(problems, key=lambda problem: self._order(problem[0]))
        return list(dict.fromkeys(f"{self._where(place)}{message}" for place, message in ordered))

    def override(self, place: Place, by: str) -> None:
        self.overrides[place] = by
        self.lines = {p: line for p, line in self.lines.items() if p[: len(place)] != place}

    def _find(self, place: Place) -> tuple[int | None, str | None]:
        """The line or the override that set the nearest enclosing value."""
        for end in range(len(place), 0, -1):
            part = place[:end]
            if part in self.overrides:
                return None, self.overrides[part]
            if part in self.lines:
                return self.lines[part], None
        return self.lines.get(()), None

    def _order(self, place: Place) -> tuple[int, int]:
        line, by = self._find(place)
        return (0, line or 0) if by is None else (1, list(self.overrides.values()).index(by))

    def _where(self, place: Place) -> str:
        line, by = self._find(place)
        if by is not None:
            return f"--set {by}: "
        if not self.shown:
            return ""
        return f"{self.shown}:{line}: " if line is not None else f"{self.shown}: "
