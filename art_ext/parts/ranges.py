"""Numbers that are drawn anew for every example or batch, grow in the course of a training, or go by such a one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from art_ext.parts.noise import Keys
from art_ext.types import Progress


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


@dataclass(frozen=True)
class OfEps:
    """A share of each example's own radius, however that is drawn or grows.

    Raises:
        ValueError: unless the share is above 0 and finite.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"a share of eps is above 0 and finite, not {self.share}")

    def __str__(self) -> str:
        return f"{self.share:g} eps"


@dataclass(frozen=True, eq=False)
class Listed:
    """A number for each example, looked up by its index: (N,) values, all above 0."""

    values: Tensor

    def draw(self, keys: Keys) -> Tensor:
        """(n,) the values of the examples that the keys are of."""
        return self.values.to(keys.index.device)[keys.index]

    def __str__(self) -> str:
        return "one for each image"


def warm_up(epoch: float, epochs: float) -> float:
    """min((epoch + 1) / epochs, 1), with epoch a real number: a linear rise that ends at 1 (Pang et al., ICLR 2021).

    The authors' script does not clamp, and overshoots to (epochs + 1) / epochs before the rise ends.
    """
    return min((epoch + 1) / epochs, 1.0) if epochs > 0 else 1.0


@dataclass(frozen=True)
class Growing:
    """A number or range that grows linearly to its full size over the first `epochs`, as `warm_up` says."""

    full: float | Uniform
    epochs: float

    def at(self, progress: Progress) -> float | Uniform:
        """Its present size: another number, or the range with both ends brought nearer to 0."""
        share = warm_up(progress.epoch, self.epochs)
        if share == 1:
            return self.full
        if isinstance(self.full, Uniform):
            return Uniform(share * self.full.low, share * self.full.high, self.full.per)
        return share * self.full

    def __str__(self) -> str:
        full = self.full if isinstance(self.full, Uniform) else f"{self.full:g}"
        return f"{full} after {self.epochs:g} epochs"


def largest(value: float | Uniform | Growing | Listed) -> float:
    """The upper end of a number or range, at its full size: what an evaluation must cover."""
    if isinstance(value, Listed):
        return float(value.values.max())
    if isinstance(value, Growing):
        value = value.full
    return value.high if isinstance(value, Uniform) else value
