"""Several attacks as one: each example keeps its best result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from art_ext.parts.attacks import PGD, Best
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Norm
from art_ext.parts.objectives import Objective, Score
from art_ext.types import Adversarial, Forward


@dataclass(frozen=True)
class Strongest:
    """Several attacks; each example keeps the result with the highest score, the first of equals.

    Attributes:
        attacks: each raises its own objective.
        objective: whose score the results are compared by.
        aim_first: what achieves the objective's aim comes before what does not, whatever its score.
    """

    attacks: tuple[PGD, ...]
    objective: Objective
    aim_first: bool = True
    bn: Literal["eval"] = "eval"

    @property
    def norm(self) -> Norm:
        return self.attacks[0].norm

    @property
    def clip(self) -> tuple[float, float]:
        return self.attacks[0].clip

    @property
    def cost(self) -> int:
        return sum(attack.cost for attack in self.attacks)

    def raising(self, objective: Objective) -> Strongest:
        """All of them on one objective; of those that are alike then, one."""
        alike = dict.fromkeys(attack.raising(objective) for attack in self.attacks)
        return replace(self, attacks=tuple(alike), objective=objective)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        best = Best(x)
        for number, attack in enumerate(self.attacks):
            own = score
            if attack.objective is not self.objective:
                own = attack.objective.bind(net, x, score.y, targeted=score.targeted)
            made = attack.craft(net, x, own, keys.stream("attack", number), mask)
            with torch.no_grad():
                out = net(made.x)
            best.consider(made.x, score.value(out), score.wrong(out), aim_first=self.aim_first)
        return Adversarial(best.x, best.x - x)

    def __str__(self) -> str:
        return f"the strongest of {' and '.join(str(attack) for attack in self.attacks)}"
