"""Attacks on an ensemble, as a recipe's `evaluate:` names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    Count,
    EvaluationContext,
    EveryTarget,
    Objective,
    Positive,
    for_evaluation,
    norm_named,
)
from art_ext_adp.ingredient import ADPLoss

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in ADPLoss.adversaries}


class EnsemblePGDOptions(BaseModel):
    """Options of `ensemble_pgd`; norm and eps default to the threat of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Annotated[
        Literal["ce", "margin", "member_ce", "member_margin", "mean_logits_ce", "mean_logits_margin"],
        Field(description="ce, margin: of the mixture; the others: summed over members, or of their mean logits"),
    ] = "mean_logits_margin"
    every_target: Annotated[bool, Field(description="towards each false class in turn, L - 1 times the cost")] = False
    steps: Count = 40
    restarts: Count = 1
    step_size: Positive | None = None
    norm: Literal["linf", "l2", "l1"] | None = None
    eps: Positive | None = None


def build_ensemble_pgd(options: EnsemblePGDOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)
    objective = OBJECTIVES[options.objective]
    attack = PGD(
        ball, options.steps, options.step_size, objective=objective, restarts=options.restarts, clip=context.clip
    )
    name = f"ensemble_pgd{options.steps}" + (f"x{options.restarts}" if options.restarts > 1 else "")
    if options.every_target:
        attack = EveryTarget(**vars(attack), n_classes=context.plan.facts.n_classes)
    suffix = "_every" if options.every_target else ""
    return [(f"{name}_{objective.name}{suffix}", for_evaluation(attack))]


ATTACKS = [
    AttackEntry(
        "ensemble_pgd",
        "PGD on the mixture, on sums over the members or on their mean logits, also towards every class",
        EnsemblePGDOptions,
        build_ensemble_pgd,
        family="informed",
        informs=("adp",),
    )
]
