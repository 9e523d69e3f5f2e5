"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import ConfigError, Ingredient, Number, Plan, Target
from art_ext_tricks.formulas import PAPER, smooth_labels


@dataclass(frozen=True)
class SmoothLabels(Target):
    """The true class has 1 - amount, each other one amount / (K - 1). Attacks never see it: they get the labels."""

    amount: float
    gives_distributions = True

    def __call__(self, y: Tensor, n_classes: int, delta: Tensor | None) -> Tensor:
        return smooth_labels(y, n_classes, self.amount, torch.float32 if delta is None else delta.dtype)

    def __str__(self) -> str:
        return f"labels smoothed by {self.amount:g}"


def smoothed(plan: Plan, by: Ingredient, amount: float) -> Plan:
    """Fills the target.

    Raises:
        ConfigError: for an amount that leaves the true class no more than the others.
    """
    k = plan.facts.n_classes
    if amount >= 1 - 1 / k:
        raise ConfigError(f"{by.name}: smoothing by {amount:g} leaves the true of {k} classes no more than the others")
    return plan.fill(by, target=SmoothLabels(amount))


class Smooth(Ingredient):
    """Label smoothing of the outer loss (Szegedy et al., CVPR 2016), with the mass on the K - 1 other classes.

    In PGD-AT, 0.1 to 0.3 raises AutoAttack accuracy by half a point; from 0.4 on it is lost again. It
    makes logits small, so that PGD on cross-entropy overstates: judge it by a margin.
    """

    name = "smooth"
    paper = PAPER

    amount: Annotated[Number, Field(ge=0, lt=1, description="taken from the true class; 0.1 to 0.3 helped")] = 0.1

    def apply(self, plan: Plan) -> Plan:
        return smoothed(plan, self, self.amount)
