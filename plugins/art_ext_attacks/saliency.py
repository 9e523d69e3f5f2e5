"""JSMA: one value after the other, by what it does for the target and against the rest (Papernot et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    L0,
    Adversarial,
    Attack,
    AttackEntry,
    Count,
    EvaluationContext,
    Facts,
    Forward,
    Ingredient,
    Keys,
    Objective,
    Paper,
    Plan,
    Positive,
    Score,
    cw,
    wrong_classes,
)
from art_ext_attacks.passes import look, slopes
from art_ext_attacks.settings import AttackSettings

Target = Literal["random", "least_likely"]


def saliency(for_target: Tensor, for_others: Tensor, *, up: bool) -> Tensor:
    """What raising (or lowering) a value does for the target and against all others (Papernot et al., eq. (8)).

    S = dZ_t / dx |sum_{j != t} dZ_j / dx| where the first is positive and the sum negative, else 0;
    for a value that falls, both signs are turned.

    Args:
        for_target, for_others: gradients of Z_t and of sum_{j != t} Z_j, of one shape.
    """
    way = 1 if up else -1
    return (way * for_target).relu() * (-way * for_others).relu()


@dataclass(frozen=True)
class JSMA:
    """The Jacobian-based saliency map attack (Papernot et al., EuroS&P 2016, algorithm 3), a value at a time.

    Each step moves the value of the largest saliency by theta, up or down; a value moves once in a
    direction until it meets the box. Where no value helps the target and harms the others at once,
    the one with the largest difference of the two gradients is taken. An example is done when it
    achieves the aim, or `values` of it have moved. The authors' version moves pairs of values.

    Attributes:
        values: how many values (pixels, or channels of them) may change.
        theta: change of a value in a step, in clip-value units; None for the clip range.
        target: which wrong class the values are to help, where the score has no targets: one drawn,
            or the one that the network thinks least likely at the start.
    """

    values: int
    n_classes: int
    theta: float | None = None
    target: Target = "random"
    clip: tuple[float, float] = (0.0, 1.0)
    objective: Objective = cw  # for the aim alone
    bn: Literal["eval"] = "eval"

    @property
    def norm(self) -> L0:
        return L0(float(self.values))

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        target = score.y if score.targeted else self._wrong(net, x, score.y, keys)
        size = self.theta or self.clip[1] - self.clip[0]
        free = torch.ones_like(x, dtype=torch.bool) if mask is None else (mask > 0).expand_as(x).clone()
        adv, changed = x.clone(), torch.zeros_like(x, dtype=torch.bool)
        rows = torch.arange(len(x), device=x.device)
        while True:
            rows = rows[~score[rows].wrong(look(net, adv[rows]))]
            full = changed[rows].flatten(1).sum(1) >= self.values
            helps, way = self._ranked(net, adv[rows], target[rows])
            can = free[rows] & torch.where(way > 0, adv[rows] < self.clip[1], adv[rows] > self.clip[0])
            can &= changed[rows] | ~full.reshape(-1, 1, 1, 1)
            going = can.flatten(1).any(1)
            rows, helps, way, can = rows[going], helps[going], way[going], can[going]
            if len(rows) == 0:
                return Adversarial(adv, adv - x)
            spot = helps.masked_fill(~can, float("-inf")).flatten(1).argmax(1)
            picked = torch.zeros_like(can).flatten(1).scatter(1, spot[:, None], True).reshape(can.shape)
            adv[rows] = torch.where(picked, adv[rows] + size * way, adv[rows]).clamp(*self.clip)
            changed[rows] |= picked
            free[rows] &= ~(picked & ((adv[rows] <= self.clip[0]) | (adv[rows] >= self.clip[1])))

    def _wrong(self, net: Forward, x: Tensor, y: Tensor, keys: Keys) -> Tensor:
        if self.target == "random":
            return wrong_classes(keys, y, self.n_classes)
        with torch.no_grad():
            return look(net, x).logits.scatter(1, y[:, None], float("inf")).argmin(1)

    def _ranked(self, net: Forward, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """How much each value helps, and in which direction; both shaped as x."""
        if len(x) == 0:
            return x, x

        def levels(logits: Tensor, rows: Tensor) -> Tensor:
            own = logits.gather(1, target[rows][:, None])
            return torch.cat([own, logits.sum(1, keepdim=True) - own], 1)

        _, gradients = slopes(net, x, levels)
        own, others = gradients[:, 0], gradients[:, 1]
        up, down = (saliency(own, others, up=way) for way in (True, False))
        difference = own - others
        salient = torch.maximum(up, down)
        # below every salient value, the difference alone decides
        rest = difference.abs() / (1 + difference.abs()) - 1
        way = torch.where(salient > 0, torch.where(up >= down, 1.0, -1.0), torch.where(difference >= 0, 1.0, -1.0))
        return torch.where(salient > 0, salient, rest), way.to(x.dtype)

    def __str__(self) -> str:
        size = "the clip range" if self.theta is None else f"{self.theta:g}"
        wrong = {"random": "a random wrong class", "least_likely": "the least likely class"}[self.target]
        return f"JSMA({self.values} values, theta {size}, towards {wrong})"


class JSMASettings(AttackSettings):
    """JSMA's options."""

    values: Annotated[Count | None, Field(description="that may change; the threat's eps in l0, else a tenth")] = None
    theta: Annotated[Positive | None, Field(description="change in a step; the clip range when left out")] = None
    target: Annotated[Target, Field(description="wrong class that is helped: drawn, or argmin_k z_k")] = "random"

    def jsma(self, facts: Facts, usual: int) -> JSMA:
        return JSMA(self.values or usual, facts.n_classes, self.theta, self.target, facts.clip)


class JSMAIngredient(Ingredient, JSMASettings):
    """JSMA as an attack of its own."""

    name = "jsma"
    paper = Paper(
        "The Limitations of Deep Learning in Adversarial Settings",
        "Papernot, McDaniel, Jha, Fredrikson, Celik, Swami",
        "IEEE European Symposium on Security and Privacy",
        2016,
        "https://arxiv.org/abs/1511.07528",
    )

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=self.jsma(plan.facts, tenth(plan.facts)))


def tenth(facts: Facts) -> int:
    """A tenth of the image's values, one at least."""
    return max(1, torch.Size(facts.input_shape).numel() // 10)


def build(options: JSMASettings, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    attack = options.jsma(context.facts, int(context.eps) if context.norm == "l0" else tenth(context.facts))
    suffix = "" if attack.target == "random" else f"_{attack.target}"
    return [(f"jsma{attack.values}{suffix}", attack)]


ENTRY = AttackEntry("jsma", "a few values by their saliency (Papernot et al., EuroS&P 2016)", JSMASettings, build)
