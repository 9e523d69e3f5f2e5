"""Tricks of the inner attack: its radius, when it stops, and the mode of normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from art_ext.api import (
    PGD,
    ConfigError,
    Growing,
    Ingredient,
    NonNegative,
    OfEps,
    Plan,
    Positive,
    Problem,
    Progress,
    Uniform,
)
from art_ext_tricks.formulas import PAPER


@dataclass(frozen=True)
class Grow:
    """The attack's radius grows to its own; a step size stays what it is at the full radius."""

    by: str
    epochs: float

    def __call__(self, attack: Any) -> PGD:
        if not isinstance(attack, PGD):
            raise ConfigError(f"{self.by} changes the radius of PGD, but the attack is {attack}; remove {self.by}")
        eps, size = attack.norm.eps, attack.step_size
        if isinstance(eps, Growing):
            raise ConfigError(f"{self.by}: the radius of the attack grows already; remove one of the two")
        if not isinstance(eps, int | float | Uniform):
            raise ConfigError(f"{self.by}: each image has a radius of its own, which does not grow; remove {self.by}")
        if isinstance(eps, int | float) and not isinstance(size, int | float):
            size = eps * (size.share if isinstance(size, OfEps) else 2.5 / attack.steps)
        return replace(attack, norm=replace(attack.norm, eps=Growing(eps, self.epochs)), step_size=size)


class EpsWarmUp(Ingredient):
    """The attack's radius rises over the first epochs; its step size does not. The paper saw no effect.

    Of a range, both ends rise; where no step size is given, its steps follow the drawn radius.
    """

    name = "eps_warmup"
    paper = PAPER

    epochs: Annotated[Positive, Field(description="of the rise; 10, 15 and 20 were tried")] = 15

    def apply(self, plan: Plan) -> Plan:
        return plan.alter(self, "attack", Grow(self.name, self.epochs)).rise(self, self.epochs, "radius")


@dataclass(frozen=True)
class Lenience:
    """PGD's tau: steps that an example still takes from wrong iterates; the paper's counter less one."""

    first: float
    second: float

    def at(self, progress: Progress) -> int:
        return int(progress.epoch >= self.first) + int(progress.epoch >= self.second)

    def __str__(self) -> str:
        return f"0, 1 from epoch {self.first:g}, 2 from epoch {self.second:g}"


class EarlyStopSteps(Ingredient):
    """The attack leaves an example soon after it is misclassified: friendly adversarial training's rule.

    A counter of 1, 2 from epoch `first`, 3 from `second`: each look at a wrong iterate takes one off,
    and at 0 the example stays where it is. It raises clean accuracy and looks harmless under PGD-10,
    but loses 2 to 2.5 points under AutoAttack.
    """

    name = "early_stop_steps"
    paper = PAPER

    first: Annotated[NonNegative, Field(description="epoch, of 110: 40, 40 and 60 were tried")] = 40
    second: Annotated[NonNegative, Field(description="epoch, of 110: 70, 100 and 100 were tried")] = 70

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.second < self.first:
            raise ValueError(f"second comes after first, {self.first:g}")
        return self

    def apply(self, plan: Plan) -> Plan:
        return plan.alter(self, "attack", self._stopped).remark(self._idle)

    def _idle(self, epochs: int) -> str:
        """Which of its epochs a training does not reach: those that were asked for, or both."""
        if self.first >= epochs:
            return (
                f"{self.name}: its counter stays 1 (tau 0) to the end, epoch {epochs}, since first is {self.first:g}; "
                "set first lower for it to rise"
            )
        if self.second >= epochs and self.changed("second"):
            return f"{self.name}.second: nothing happens at {self.second:g}, after the last of {epochs} epochs"
        return ""

    def _stopped(self, attack: Any) -> PGD:
        if not isinstance(attack, PGD):
            raise ConfigError(f"{self.name} stops PGD early, but the attack is {attack}; remove {self.name}")
        try:
            return replace(attack, tau=Lenience(self.first, self.second))
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from None


Mode = Literal["eval", "train"]


@dataclass(frozen=True)
class SetBN:
    """The attack crafts with normalisation layers in this mode."""

    by: str
    mode: Mode

    def __call__(self, attack: Any) -> Any:
        if not is_dataclass(attack) or "bn" not in {option.name for option in fields(attack)}:
            raise ConfigError(f"{self.by}: the attack {attack} has no mode of normalisation layers; remove {self.by}")
        return replace(attack, bn=self.mode)  # type: ignore[type-var]


def craft_in(plan: Plan, by: Ingredient, mode: Mode) -> Plan:
    """Sets the mode; another ingredient's other mode is a problem that names both."""
    for other in plan.alterations:
        if isinstance(other.change, SetBN) and other.change.mode != mode:
            plan = plan.object_to(
                Problem(
                    f"{other.owner} crafts with normalisation layers in {other.change.mode} mode, and {by.name} "
                    f"in {mode} mode; remove one of them",
                    (other.owner, by.name),
                )
            )
    return plan.alter(by, "attack", SetBN(by.name, mode))


class EvalBN(Ingredient):
    """Adversarial examples are crafted with normalisation layers in eval mode: about a point of clean accuracy.

    It is this library's default too; it changes attacks that were asked to craft in train mode.
    """

    name = "eval_bn"
    paper = PAPER

    def apply(self, plan: Plan) -> Plan:
        return craft_in(plan, self, "eval")


class TrainBN(Ingredient):
    """Adversarial examples are crafted with normalisation layers in train mode, which moves their statistics."""

    name = "train_bn"
    paper = PAPER

    def apply(self, plan: Plan) -> Plan:
        return craft_in(plan, self, "train")
