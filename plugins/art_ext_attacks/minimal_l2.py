"""The Carlini and Wagner L2 attack as it was published: the nearest misclassified image (S&P 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from art_ext.api import (
    Attack,
    AttackEntry,
    CarliniWagner,
    Count,
    EvaluationContext,
    Facts,
    Ingredient,
    NonNegative,
    Norm,
    Paper,
    Plan,
    Positive,
)
from art_ext_attacks.settings import AttackSettings, OfThreat


class CarliniWagnerSettings(AttackSettings):
    """Options of the attack, with the authors' defaults."""

    confidence: Annotated[NonNegative, Field(description="margin that the wrong class must have")] = 0.0
    steps: Annotated[Count, Field(description="of each search; they end early where the loss rests")] = 1000
    search_steps: Annotated[Count, Field(description="constants that are tried, by bisection")] = 9
    initial_const: Positive = 1e-3
    rate: Annotated[Positive, Field(description="Adam's")] = 0.01
    aim: Annotated[Literal["random", "any"], Field(description="a drawn wrong class, or any")] = "any"

    def nearest(self, facts: Facts, within: Norm | None) -> CarliniWagner:
        """The attack; results outside the ball `within` count as failures."""
        return CarliniWagner(
            facts.n_classes,
            self.confidence,
            self.steps,
            self.search_steps,
            self.initial_const,
            self.rate,
            facts.clip,
            self.aim,
            within=within,
        )


class CarliniWagnerOptions(OfThreat, CarliniWagnerSettings):
    """The attack in a recipe's `evaluate:`; what it finds outside the threat's ball does not count."""


class CWL2(Ingredient, CarliniWagnerSettings):
    """The attack of its own; its distances are not bounded."""

    name = "cw_l2"
    paper = Paper(
        "Towards Evaluating the Robustness of Neural Networks",
        "Carlini, Wagner",
        "IEEE Symposium on Security and Privacy",
        2017,
        "https://arxiv.org/abs/1608.04644",
    )
    trial = MappingProxyType({"steps": 20, "search_steps": 2, "initial_const": 1.0})

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=self.nearest(plan.facts, None))


class CWHighConfidence(CWL2):
    """C&W-hc: wants a margin of `confidence` over every class but a drawn wrong one (Pang et al., NeurIPS 2018)."""

    name = "cw_hc"
    trial = MappingProxyType({"confidence": 0.1, "steps": 10, "search_steps": 2})

    confidence: NonNegative = 10.0
    steps: Annotated[Count, Field(description="of each search; they end early where the loss rests")] = 10_000
    initial_const: Positive = 1.0
    aim: Annotated[Literal["random", "any"], Field(description="a drawn wrong class, or any")] = "random"


class HighConfidenceOptions(CarliniWagnerSettings):
    """C&W-hc in a recipe's `evaluate:`; not bounded by the threat."""

    confidence: NonNegative = 10.0
    initial_const: Positive = 1.0
    aim: Literal["random", "any"] = "random"


def build(options: CarliniWagnerOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    return [(f"cw_l2_{options.search_steps}x{options.steps}", options.nearest(context.facts, options.ball(context)))]


ENTRY = AttackEntry(
    "cw_l2", "the nearest misclassified image in L2 (Carlini and Wagner, S&P 2017)", CarliniWagnerOptions, build
)


def build_high_confidence(options: HighConfidenceOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    return [(f"cw_hc{options.confidence:g}", options.nearest(context.facts, None))]


HIGH_CONFIDENCE = AttackEntry(
    "cw_hc", "C&W L2 of high confidence, not bounded by eps (S&P 2017)", HighConfidenceOptions, build_high_confidence
)
