"""Numbers that are drawn anew for every example or batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from art_ext.parts.noise import Keys


@dataclass(frozen=True)
class Uniform:
    """A number drawn uniformly from [low, high], per example or once per batch.

    Papers train with such radii: PC-LC draws eps from [0, 0.1] (Li et al., AAAI 2021), ADP from
    [0.01, 0.05] once per batch (Pang et al., ICML 2019).

    Raises:
        ValueError: unless 0 <= low < high, both finite.
    """

    low: float
    high: float
    per: Literal["example", "batch"] = "example"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high < math.inf:
            raise ValueError(f"a range needs 0 <= low < high, both finite, not [{self.low}, {self.high}]")
        if self.per not in ("example", "batch"):
            raise ValueError(f"a range is drawn per 'example' or 'batch', not {self.per!r}")

    def draw(self, keys: Keys) -> Tensor:
        """(N,) values, keyed by example index, or by step alone when drawn per batch."""
        keys = keys.stream("radius")
        if self.per == "batch":
            keys = keys.of_batch()
        return self.low + (self.high - self.low) * keys.uniform(()).reshape(len(keys))

    def __str__(self) -> str:
        return f"U[{self.low:g}, {self.high:g}] per {self.per}"


def largest(value: float | Uniform) -> float:
    """The upper end of a number or range: what an evaluation must cover."""
    return value.high if isinstance(value, Uniform) else value
