"""The attacks that every evaluation has: PGD and its relatives, and PGD on the adversaries of the plan's criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    Count,
    EvaluationContext,
    NonNegative,
    Objective,
    Positive,
    for_evaluation,
    norm_named,
    objective_named,
)
from art_ext_baselines.gradient_attacks import BIM, FGSM, MIM, CWMargin, GradientAttack


class BallOptions(BaseModel):
    """Options of every attack: norm and eps, by default those of the recipe's threat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    norm: Literal["linf", "l2", "l1", "l0"] | None = None
    eps: Positive | None = None


class BIMOptions(BallOptions):
    steps: Count = 10
    step_size: Positive | None = None


class MIMOptions(BIMOptions):
    momentum: NonNegative = 1.0


class PGDOptions(BallOptions):
    steps: Count = 20
    restarts: Count = 1
    step_size: Positive | None = None


class NamedPGDOptions(PGDOptions):
    objective: Literal["ce", "margin", "dlr", "kl_to_clean", "other_confidence"] = "ce"


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


def build(kind: type[GradientAttack]) -> Callable[[BallOptions, EvaluationContext], Sequence[tuple[str, Attack]]]:
    """A builder of one of the gradient attacks, named by its steps and restarts: "mim10", "cw_margin20x5"."""

    def builder(options: BallOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
        ball = {"norm": options.norm or context.norm, "eps": options.eps or context.eps}
        attack = kind(**{**options.model_dump(), **ball}).pgd(context.clip)
        steps = str(attack.steps) if attack.steps > 1 else ""
        times = f"x{attack.restarts}" if attack.restarts > 1 else ""
        return [(f"{kind.name}{steps}{times}", for_evaluation(attack))]

    return builder


ATTACKS = [
    AttackEntry("pgd", "PGD on an objective of your choice (Madry et al., ICLR 2018)", NamedPGDOptions, build_pgd),
    AttackEntry("criterion_pgd", "PGD on each adversary that the criterion declares", PGDOptions, build_criterion_pgd),
    AttackEntry("fgsm", "one step of eps (Goodfellow et al., ICLR 2015)", BallOptions, build(FGSM)),
    AttackEntry("bim", "FGSM in small steps (Kurakin et al., 2017)", BIMOptions, build(BIM)),
    AttackEntry("mim", "BIM with momentum (Dong et al., CVPR 2018)", MIMOptions, build(MIM)),
    AttackEntry("cw_margin", "PGD on the logit margin (Carlini and Wagner, S&P 2017)", PGDOptions, build(CWMargin)),
]
