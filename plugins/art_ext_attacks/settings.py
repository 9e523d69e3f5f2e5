"""What the attacks of this package share: options that name a ball, and the ingredient that is an attack alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from art_ext.api import (
    Attack,
    AttackEntry,
    EvaluationContext,
    Facts,
    Family,
    Ingredient,
    Norm,
    Plan,
    Positive,
    norm_named,
)

NormName = Literal["linf", "l2", "l1"]


class AttackSettings(BaseModel):
    """Options of an attack but its ball; one declaration for recipes, Python and ART."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def attack(self, ball: Norm, facts: Facts) -> Attack:
        """The attack on a ball, for the classes and the clip range of the facts."""
        raise NotImplementedError


class OfThreat(AttackSettings):
    """Options in a recipe's `evaluate:`; norm and eps are those of the recipe's threat when left out."""

    norm: NormName | None = None
    eps: Positive | None = None

    def ball(self, context: EvaluationContext) -> Norm:
        return norm_named(self.norm or context.norm, self.eps or context.eps)


class OnBall(Ingredient, AttackSettings):
    """An ingredient that sets the attack alone, so that it can be an ART attack."""

    norm: NormName = "linf"
    eps: Annotated[Positive, Field(description="radius in clip-value units")] = 8 / 255

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=self.attack(norm_named(self.norm, self.eps), plan.facts))


Options = TypeVar("Options", bound=OfThreat)


def entry(
    name: str,
    summary: str,
    options: type[Options],
    named: Callable[[Options], str],
    family: Family = "gradient",
) -> AttackEntry:
    """The evaluation's entry of one attack.

    Args:
        named: the name of the results, from the options: "square", "square1000".
        family: what the attack knows of the network.
    """

    def build(given: Options, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
        return [(named(given), given.attack(given.ball(context), context.facts))]

    return AttackEntry(name, summary, options, build, family)
