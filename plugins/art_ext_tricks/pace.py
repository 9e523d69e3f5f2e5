"""Learning rates: a linear warm-up, and linear scaling with the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from art_ext.api import Count, Ingredient, Plan, Positive, Problem, Progress, warm_up
from art_ext_tricks.formulas import PAPER, scaled_rate


@dataclass(frozen=True)
class WarmUp:
    """min((t + 1) / epochs, 1) at t, in epochs."""

    epochs: float

    def __call__(self, progress: Progress, rows: int) -> float:
        return warm_up(progress.epoch, self.epochs)

    def __str__(self) -> str:
        return f"rises over {self.epochs:g} epochs"


@dataclass(frozen=True)
class Scale:
    """rows of a full batch / base."""

    base: int

    def __call__(self, progress: Progress, rows: int) -> float:
        return scaled_rate(rows, self.base)

    def __str__(self) -> str:
        return f"times batch / {self.base}"


def scaled_by(plan: Plan, by: Ingredient, base: int) -> Plan:
    """Adds `Scale`; a second one, of another ingredient, is a problem that names both."""
    for other, factor in plan.paces:
        if isinstance(factor, Scale):
            said = f"{other} and {by.name} both scale the learning rate with the batch; remove one of them"
            plan = plan.object_to(Problem(said, (other, by.name)))
    return plan.pace(by, Scale(base))


class LRWarmUp(Ingredient):
    """The learning rate rises over the first epochs, under any schedule. The paper saw no effect."""

    name = "lr_warmup"
    paper = PAPER

    epochs: Annotated[Positive, Field(description="of the rise; 10, 15 and 20 were tried")] = 15

    def apply(self, plan: Plan) -> Plan:
        return plan.pace(self, WarmUp(self.epochs)).rise(self, self.epochs, "learning rate")


class ScaleLR(Ingredient):
    """The learning rate is meant for batches of `base` images, and grows or shrinks with the batch."""

    name = "scale_lr"
    paper = PAPER

    base: Annotated[Count, Field(description="images in the batch that the given rate is meant for")] = 128

    def apply(self, plan: Plan) -> Plan:
        return scaled_by(plan, self, self.base)
