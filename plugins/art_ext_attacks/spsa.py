"""SPSA: a gradient from answers alone, by random differences (Uesato et al., ICML 2018)."""

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
    Best,
    Count,
    Facts,
    Family,
    Forward,
    Keys,
    Norm,
    Objective,
    ObjectiveName,
    Paper,
    Positive,
    Score,
    cw,
)
from art_ext_attacks.passes import look
from art_ext_attacks.settings import OfThreat, OnBall, Raising, entry

ROWS = 4096
"""Perturbed images that go through the network at once."""
DECAY_1, DECAY_2, TINY = 0.9, 0.999, 1e-8
"""Adam's, as its authors set them."""


def signs(keys: Keys, samples: int, shape: tuple[int, ...]) -> Tensor:
    """(N, samples, *shape) of -1 and 1 with equal chances: the directions v."""
    size = torch.Size(shape).numel()
    words = keys.words((samples, -(-size // 32)))  # the high half of each word; one bit a sign
    bits = words[..., None] >> torch.arange(32, 64, device=words.device) & 1
    return (2 * bits.flatten(2)[..., :size] - 1).reshape(len(keys), samples, *shape)


def difference_gradient(above: Tensor, below: Tensor, v: Tensor, delta: float) -> Tensor:
    """mean_i (f(x + delta v_i) - f(x - delta v_i)) / (2 delta) v_i, as v_i is its own inverse.

    Args:
        above, below: (N, S) values of f.
        v: (N, S, C, H, W) signs.

    Returns:
        (N, C, H, W).
    """
    slope = (above - below) / (2 * delta)
    return (slope.reshape(*slope.shape, 1, 1, 1) * v).mean(1)


@dataclass(frozen=True)
class SPSA:
    """Adam on a gradient that is estimated from the answers of the network (Uesato et al., ICML 2018, algorithm 1).

    `steps` times: 2 `samples` answers around the point, an Adam step of `rate` along the estimate,
    the ball, the box. An example that achieves the aim drops out of the work.

    Attributes:
        delta: distance of the answers from the point, in clip-value units.
    """

    norm: Norm
    steps: int = 100
    samples: int = 128
    delta: float = 0.01
    rate: float = 0.01
    objective: Objective = cw
    clip: tuple[float, float] = (0.0, 1.0)
    bn: Literal["eval"] = "eval"
    family: ClassVar[Family] = "black-box"

    @property
    def cost(self) -> int:
        """Forward passes per example, at most."""
        return self.steps * (2 * self.samples + 1) + 1

    @torch.no_grad()
    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        mask = None if mask is None else torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        best = Best(x, settles=True)
        rows = self._judge(net, x, score, best, torch.arange(len(x), device=x.device))
        adv, first, second = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, self.steps + 1):
            if len(rows) == 0:
                break
            gradient = self._estimate(net, adv[rows], score[rows], keys[rows].stream("spsa", step))
            if mask is not None:
                gradient = gradient * mask[rows]
            first[rows] = DECAY_1 * first[rows] + (1 - DECAY_1) * gradient
            second[rows] = DECAY_2 * second[rows] + (1 - DECAY_2) * gradient.square()
            mean, spread = first[rows] / (1 - DECAY_1**step), second[rows] / (1 - DECAY_2**step)
            moved = adv[rows] + self.rate * mean / (spread.sqrt() + TINY)
            adv[rows] = self._inside(x[rows], moved)
            rows = self._judge(net, adv, score, best, rows)
        return Adversarial(best.x, best.x - x)

    def _inside(self, x: Tensor, adv: Tensor) -> Tensor:
        return (x + self.norm.project(adv - x, self.norm.largest)).clamp(*self.clip)

    def _judge(self, net: Forward, adv: Tensor, score: Score, best: Best, rows: Tensor) -> Tensor:
        """Shows some examples to `best`; those of them that are still open."""
        part, own, out = best.part(rows), score[rows], look(net, adv[rows])
        part.consider(adv[rows], own.value(out), own.wrong(out))
        best.merge(rows, part)
        return rows[part.open_rows()]

    def _estimate(self, net: Forward, x: Tensor, score: Score, keys: Keys) -> Tensor:
        share, total = max(1, ROWS // (2 * self.samples)), []
        for rows in torch.split(torch.arange(len(x), device=x.device), share):
            v = signs(keys[rows], self.samples, tuple(x.shape[1:])).to(x.dtype)
            around = x[rows, None] + self.delta * torch.cat([v, -v], 1)
            own = score[rows.repeat_interleave(2 * self.samples)]
            values = own.value(look(net, around.flatten(0, 1))).reshape(len(rows), 2, self.samples)
            total.append(difference_gradient(values[:, 0], values[:, 1], v, self.delta))
        return torch.cat(total)

    def __str__(self) -> str:
        return f"SPSA({self.norm}, {self.steps} steps, {2 * self.samples} answers each, on {self.objective})"


class SPSASettings(Raising):
    """SPSA's options; the paper's evaluation takes up to 8,192 answers a step."""

    steps: Count = 100
    samples: Annotated[Count, Field(description="pairs of answers a step")] = 128
    delta: Annotated[Positive, Field(description="distance of the answers, in clip-value units")] = 0.01
    rate: Annotated[Positive, Field(description="Adam's, in clip-value units")] = 0.01
    objective: ObjectiveName = "margin"

    def on(self, objective: Objective, ball: Norm, facts: Facts) -> Attack:
        return SPSA(ball, self.steps, self.samples, self.delta, self.rate, objective, facts.clip)


class SPSAOptions(OfThreat, SPSASettings):
    """SPSA in a recipe's `evaluate:`."""


class SPSAIngredient(OnBall, SPSASettings):
    """SPSA as an attack of its own."""

    name = "spsa"
    paper = Paper(
        "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks",
        "Uesato, O'Donoghue, van den Oord, Kohli",
        "ICML",
        2018,
        "https://arxiv.org/abs/1802.05666",
    )
    trial = MappingProxyType({"steps": 4, "samples": 8})


ENTRY = entry(
    "spsa",
    "answers alone: Adam on a gradient from random differences (Uesato et al., ICML 2018)",
    SPSAOptions,
    lambda options: f"spsa{options.steps}x{2 * options.samples}",
    family="black-box",
)
