"""Fast adversarial training (Wong, Rice, Kolter, ICLR 2020)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from art_ext.api import PGD, Ingredient, Linf, Madry, Paper, Plan, Positive


class FastAT(Ingredient):
    """Fast adversarial training: one step of 1.25 eps from a uniform start (algorithm 3), L-inf.

    It may overfit to its one step within an epoch ("catastrophic overfitting"): accuracy under FGSM
    rises, under PGD it falls to 0. Held-out accuracy under PGD, by which the best epoch is chosen, shows it.
    """

    name = "fast_at"
    paper = Paper(
        "Fast is better than free: Revisiting adversarial training",
        "Wong, Rice, Kolter",
        "ICLR",
        2020,
        "https://arxiv.org/abs/2001.03994",
    )

    eps: Annotated[Positive, Field(description="radius in clip-value units")] = 8 / 255
    step: Annotated[Positive, Field(description="alpha / eps; above 1.25 catastrophic overfitting sets in")] = 1.25
    bn: Annotated[
        Literal["eval", "train"], Field(description="mode of normalisation layers while crafting; train in the code")
    ] = "eval"

    def apply(self, plan: Plan) -> Plan:
        attack = PGD(Linf(self.eps), 1, self.step * self.eps, bn=self.bn, clip=plan.facts.clip)
        return plan.fill(self, attack=attack, risk=Madry())
