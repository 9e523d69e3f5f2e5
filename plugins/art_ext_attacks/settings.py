"""What the attacks of this package share: options that name a ball, and the ingredient that is an attack alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from art_ext.api import (
    Attack,
    AttackEntry,
    Detector,
    EvaluationContext,
    Facts,
    Family,
    Ingredient,
    Norm,
    Objective,
    ObjectiveName,
    Plan,
    Positive,
    norm_named,
    objectives_for,
)

NormName = Literal["linf", "l2", "l1"]
Named = Sequence[tuple[str, Attack]]


class AttackSettings(BaseModel):
    """Options of an attack but its ball; one declaration for recipes, Python and ART."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def attack(self, ball: Norm, facts: Facts) -> Attack:
        """The attack on a ball, for the classes and the clip range of the facts."""
        raise NotImplementedError

    def attacks(self, ball: Norm, facts: Facts, plan: Plan, detectors: Sequence[Detector] = ()) -> Named:
        """The attacks that these options mean against a plan, strongest first, with what follows their name."""
        return [("", self.attack(ball, facts))]


class Raising(AttackSettings):
    """Options of an attack that raises an objective of the user's choice."""

    objective: ObjectiveName = "ce"

    def on(self, objective: Objective, ball: Norm, facts: Facts) -> Attack:
        """The attack on an objective."""
        raise NotImplementedError

    def attacks(self, ball: Norm, facts: Facts, plan: Plan, detectors: Sequence[Detector] = ()) -> Named:
        usual = self.objective == type(self).model_fields["objective"].default
        return [
            ("" if usual else f"_{objective.name}", self.on(objective, ball, facts))
            for objective in objectives_for(self.objective, plan, detectors)
        ]


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
        strongest = self.attacks(norm_named(self.norm, self.eps), plan.facts, plan)[0]
        return plan.fill(self, attack=strongest[1])


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
        found = given.attacks(given.ball(context), context.facts, context.plan, context.detectors)
        return [(f"{named(given)}{suffix}", attack) for suffix, attack in found]

    return AttackEntry(name, summary, options, build, family)
