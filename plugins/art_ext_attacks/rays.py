"""RayS: a search over directions of signs, by the label alone (Chen and Gu, KDD 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    Adversarial,
    Attack,
    ConfigError,
    Count,
    Facts,
    Family,
    Forward,
    Keys,
    Linf,
    Norm,
    Objective,
    Paper,
    Score,
    cw,
)
from art_ext_attacks.passes import look
from art_ext_attacks.settings import AttackSettings, OfThreat, OnBall, entry

TOLERANCE = 1e-3
"""Where the search for a radius ends, as a share of the clip range."""


def flipped(direction: Tensor, level: int, block: int) -> Tensor:
    """The directions (N, D) with one of their 2^level blocks of neighbours turned round."""
    size = -(-direction.shape[1] // 2**level)
    turned = direction.clone()
    turned[:, block * size : (block + 1) * size] *= -1
    return turned


@dataclass(frozen=True)
class RayS:
    """The smallest r for which x + r d is misclassified, over directions d in {-1, 1}^D (Chen and Gu, algorithm 3).

    The blocks of d are turned round one after the other, halves, quarters and so on; a direction that
    is still adversarial at the best radius so far is kept, and its own radius found by bisection.
    It needs the label alone, no score and no gradient. An example drops out once its radius is
    within eps, or its `queries` are spent.
    """

    norm: Norm
    queries: int = 10_000
    clip: tuple[float, float] = (0.0, 1.0)
    objective: Objective = cw  # for the aim alone; its value is never asked for
    bn: Literal["eval"] = "eval"
    family: ClassVar[Family] = "black-box"

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Linf):
            raise ConfigError(f"rays searches an L-inf ball, got {self.norm.name}; use square or spsa")

    @property
    def cost(self) -> int:
        """Forward passes per example, at most."""
        return self.queries

    @torch.no_grad()
    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        search = _Search(self, net, x, score, mask)
        search.run()
        adv = search.nearest(self.norm.largest)
        return Adversarial(adv, adv - x)

    def __str__(self) -> str:
        return f"RayS({self.norm}, {self.queries} labels)"


class _Search:
    """The state of one batch: a direction, a radius and the queries spent, for each example."""

    def __init__(self, attack: RayS, net: Forward, x: Tensor, score: Score, mask: Tensor | None) -> None:
        self.attack, self.net, self.x, self.score = attack, net, x, score
        self.mask = None if mask is None else torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        self.low, self.high = attack.clip
        n = len(x)
        self.direction = torch.ones_like(x.flatten(1))
        self.radius = x.new_full((n,), float("inf"))
        self.spent = torch.zeros(n, dtype=torch.int64, device=x.device)

    def run(self) -> None:
        everyone = torch.arange(len(self.x), device=self.x.device)
        self.radius[self._wrong(everyone, self.direction, self.x.new_zeros(len(self.x)))] = 0
        self._try(rows := self._open(), self.direction[rows])
        level, last = 0, (self.direction.shape[1] - 1).bit_length()
        while len(self._open()) > 0:
            size = -(-self.direction.shape[1] // 2**level)
            for block in range(-(-self.direction.shape[1] // size)):
                rows = self._open()
                if len(rows) == 0:
                    return
                self._try(rows, flipped(self.direction[rows], level, block))
            level = min(level + 1, last)

    def nearest(self, eps: float) -> Tensor:
        """The nearest misclassified image of each, or as far towards it as eps allows."""
        return self._at(slice(None), self.direction, self.radius.clamp(max=eps))

    def _open(self) -> Tensor:
        """Rows that are neither within eps nor out of queries."""
        going = (self.radius > self.attack.norm.largest) & (self.spent < self.attack.queries)
        return going.nonzero().squeeze(1)

    def _at(self, rows: Tensor | slice, direction: Tensor, radius: Tensor) -> Tensor:
        x = self.x[rows]
        delta = (radius[:, None] * direction).reshape(x.shape)
        return (x + (delta if self.mask is None else delta * self.mask[rows])).clamp(self.low, self.high)

    def _wrong(self, rows: Tensor, direction: Tensor, radius: Tensor) -> Tensor:
        """(n,) bool, one query each."""
        self.spent[rows] += 1
        return self.score[rows].wrong(look(self.net, self._at(rows, direction, radius)))

    def _try(self, rows: Tensor, direction: Tensor) -> None:
        """Keeps the directions (n, D) that are adversarial at the best radius, with their own radius."""
        if len(rows) == 0:
            return
        reach = torch.minimum(self.radius[rows], self.x.new_full((len(rows),), self.high - self.low))
        better = self._wrong(rows, direction, reach)
        rows, direction, above = rows[better], direction[better], reach[better]
        below = torch.zeros_like(above)
        tolerance = TOLERANCE * (self.high - self.low)
        going = torch.arange(len(rows), device=rows.device)
        while len(going := going[above[going] - below[going] > tolerance]) > 0:
            middle = (above[going] + below[going]) / 2
            wrong = self._wrong(rows[going], direction[going], middle)
            above[going] = torch.where(wrong, middle, above[going])
            below[going] = torch.where(wrong, below[going], middle)
        self.direction[rows], self.radius[rows] = direction, above


class RaySSettings(AttackSettings):
    """RayS's options."""

    queries: Annotated[Count, Field(description="labels that are asked for, per example")] = 10_000

    def attack(self, ball: Norm, facts: Facts) -> Attack:
        return RayS(ball, self.queries, facts.clip)


class RaySOptions(OfThreat, RaySSettings):
    """RayS in a recipe's `evaluate:`."""


class RaySIngredient(OnBall, RaySSettings):
    """RayS as an attack of its own."""

    name = "rays"
    paper = Paper(
        "RayS: A Ray Searching Method for Hard-label Adversarial Attack",
        "Chen, Gu",
        "KDD",
        2020,
        "https://arxiv.org/abs/2006.12792",
    )
    trial = MappingProxyType({"queries": 60})


ENTRY = entry(
    "rays",
    "the label alone: a search over directions of signs in L-inf (Chen and Gu, KDD 2020)",
    RaySOptions,
    lambda options: f"rays{options.queries}",
    family="black-box",
)
