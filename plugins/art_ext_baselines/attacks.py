"""The attacks that every evaluation has: PGD, and PGD on the adversaries of the plan's criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    Count,
    EvaluationContext,
    Objective,
    Positive,
    for_evaluation,
    norm_named,
    objective_named,
)


class PGDOptions(BaseModel):
    """Options of an evaluation's PGD; norm and eps default to the threat of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Count = 20
    restarts: Count = 1
    step_size: Positive | None = None
    norm: Literal["linf", "l2", "l1"] | None = None
    eps: Positive | None = None


class NamedPGDOptions(PGDOptions):
    objective: Literal["ce", "margin", "dlr", "kl_to_clean"] = "ce"


def _pgd(options: PGDOptions, context: EvaluationContext, objective: Objective) -> PGD:
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)
    attack = PGD(ball, options.steps, options.step_size, restarts=options.restarts, clip=context.clip)
    return for_evaluation(attack, objective=objective)


def _name(options: PGDOptions, objective: Objective) -> str:
    word = "" if objective.name == "ce" else f"_{objective.name}"
    times = f"x{options.restarts}" if options.restarts > 1 else ""
    return f"pgd{options.steps}{times}{word}"


def build_pgd(options: NamedPGDOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    objective = objective_named(options.objective)
    return [(_name(options, objective), _pgd(options, context, objective))]


def build_criterion_pgd(options: PGDOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    adversaries = context.plan.compose().criterion.adversaries
    return [(_name(options, objective), _pgd(options, context, objective)) for objective in adversaries]


ATTACKS = [
    AttackEntry("pgd", "PGD on an objective of your choice (Madry et al., ICLR 2018)", NamedPGDOptions, build_pgd),
    AttackEntry("criterion_pgd", "PGD on each adversary that the criterion declares", PGDOptions, build_criterion_pgd),
]
