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
    ObjectiveName,
    Positive,
    ce,
    cw,
    for_evaluation,
    objectives_for,
)
from art_ext_baselines.gradient_attacks import BIM, FGSM, MIM, CWMargin, GradientAttack, PlainPGD

Built = Sequence[tuple[str, Attack]]


class BallOptions(BaseModel):
    """Options of every attack: norm and eps, by default those of the recipe's threat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    norm: Literal["linf", "l2", "l1", "l0"] | None = None
    eps: Positive | None = None


class RaisingOptions(BallOptions):
    objective: ObjectiveName = "ce"


class BIMOptions(RaisingOptions):
    steps: Count = 10
    step_size: Positive | None = None


class MIMOptions(BIMOptions):
    momentum: NonNegative = 1.0


class PGDOptions(BallOptions):
    steps: Count = 20
    restarts: Count = 1
    step_size: Positive | None = None


class NamedPGDOptions(PGDOptions, RaisingOptions):
    """Those of PGD on an objective of the user's choice."""


def build(kind: type[GradientAttack]) -> Callable[[BallOptions, EvaluationContext], Built]:
    """A builder of one of the gradient attacks, named by its steps, restarts and objective: "mim10", "pgd20x5_dlr"."""

    def builder(options: BallOptions, context: EvaluationContext) -> Built:
        if isinstance(options, RaisingOptions):
            raised = objectives_for(options.objective, context.plan, context.detectors)
            return [_built(kind, options, context, objective) for objective in raised]
        return [_built(kind, options, context, cw)]

    return builder


def build_criterion_pgd(options: PGDOptions, context: EvaluationContext) -> Built:
    adversaries = context.plan.compose().criterion.adversaries
    return [_built(PlainPGD, options, context, objective) for objective in adversaries]


def _built(
    kind: type[GradientAttack], options: BallOptions, context: EvaluationContext, objective: Objective
) -> tuple[str, PGD]:
    ball = {"norm": options.norm or context.norm, "eps": options.eps or context.eps}
    known = {name: value for name, value in options.model_dump().items() if name != "objective"}
    attack = kind(**{**known, **ball}).pgd(context.clip, objective)
    steps = "" if kind is FGSM else str(attack.steps)
    times = f"x{attack.restarts}" if attack.restarts > 1 else ""
    word = "" if objective is ce or kind is CWMargin else f"_{objective.name}"
    return f"{kind.name}{steps}{times}{word}", for_evaluation(attack)


ATTACKS = [
    AttackEntry("pgd", "PGD on an objective of choice (Madry et al., ICLR 2018)", NamedPGDOptions, build(PlainPGD)),
    AttackEntry("criterion_pgd", "PGD on each adversary that the criterion declares", PGDOptions, build_criterion_pgd),
    AttackEntry("fgsm", "one step of eps (Goodfellow et al., ICLR 2015)", RaisingOptions, build(FGSM)),
    AttackEntry("bim", "FGSM in small steps (Kurakin et al., 2017)", BIMOptions, build(BIM)),
    AttackEntry("mim", "BIM with momentum (Dong et al., CVPR 2018)", MIMOptions, build(MIM)),
    AttackEntry("cw_margin", "PGD on the logit margin (Carlini and Wagner, S&P 2017)", PGDOptions, build(CWMargin)),
]
